"""The results of a whole experiment as one W&B run, from the files of its run folder.

The cells have runs of their own (`cell_logger`); this run holds what needs all of them: averages, the whole table, the
gallery.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.errors import MissingFileError
from zoo_exp.report.mask_items import choose, read_masks
from zoo_exp.runs import folder
from zoo_exp.tracking.content import scalars, studied, table
from zoo_exp.tracking.mode import resolve_mode
from zoo_exp.tracking.session import Place, Session, read_marker, short

MARKER = "experiment"


def log_run(
    run_dir: Path,
    config: Mapping[str, Any],
    mode_hint: str = "auto",
    project: str = "zoo_exp",
    echo: Callable[[str], None] = print,
    entity: str | None = None,
    tags: Sequence[str] = (),
    media_mb: float = 20.0,
) -> Path | None:
    """Log results.json and the mask images of a run folder as one W&B run, and report it in one line.

    The same results are logged once; a second call only repeats the line. A failure of W&B is reported in the line and
    raises nothing, since the results are on disk.

    Args:
        run_dir: a run folder with results.json (see `report.summary.write`).
        config: the resolved configuration.
        mode_hint: auto, online, offline or disabled, from the configuration.
        project: W&B project.
        echo: prints the line.
        entity: W&B user or team; None means the user's default.
        tags: tags of the run.
        media_mb: megabytes that all W&B files of the run folder may take; images are left out beyond.

    Returns:
        The folder that W&B wrote, or None if it is disabled or failed.

    Raises:
        MissingFileError: no results in `run_dir`.
        UnknownNameError: unknown mode.
    """
    mode = resolve_mode(mode_hint)
    if mode.name == "disabled":
        echo(f"W&B: disabled ({mode.reason}).")
        return None
    run_dir = Path(run_dir).resolve()
    results = _results(run_dir)
    content = json.dumps([results["rows"], results["tasks"], mode.name], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    before = read_marker(run_dir, MARKER)
    if before.digest == digest:
        echo(before.line)
        return run_dir / before.folder
    place = Place(run_dir, mode, project, entity, str(results["experiment"]), tuple(tags), media_mb)
    try:
        written, line, left_out = _log(place, results, config, digest)
    except Exception as error:  # the evaluation has succeeded, whatever W&B does
        echo(f"W&B: logging failed ({short(error)}); the results are in {run_dir}")
        return None
    echo(line)
    if left_out:
        echo(place.left_out(left_out))
    return written


def _log(
    place: Place, results: dict[str, Any], config: Mapping[str, Any], digest: str
) -> tuple[Path, str, int]:
    """Log everything; the folder of the W&B run, the line for the user, and the questions without images."""
    import wandb

    rows = results["rows"]
    job = f"experiment/{studied([str(row['selector']) for row in rows])}"
    session = Session(place, MARKER, str(results["experiment"]), job, config)
    items = read_masks(place.run_dir)
    names = list(dict.fromkeys(arm.arm for item in items for arm in item.arms))
    row: dict[str, Any] = {**scalars(rows), "results": table(rows, wandb.Table)}
    room, gallery = place.room(), folder.gallery(place.run_dir)
    if gallery.exists() and gallery.stat().st_size <= room / 2:
        room -= gallery.stat().st_size
        row["gallery"] = [wandb.Image(str(gallery))]
    left_out = session.log_images(row, choose(items, names, results["tasks"]), room)
    line = session.finish(digest)
    return place.run_dir / session.marker.folder, line, left_out


def _results(run_dir: Path) -> dict[str, Any]:
    path = folder.results(run_dir, ".json")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}; run the experiment first") from error
    except ValueError as error:
        raise MissingFileError(
            f"{path} is damaged ({error}): run the experiment again to rewrite it"
        ) from error
    return document
