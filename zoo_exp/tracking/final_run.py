"""The results of a whole experiment as one W&B run, from what is on disk.

The run folder is the record and W&B is derived from it. While the experiment runs, `wandb_cells` logs each of its
cells; this run holds what needs all of them: averages, the whole table, the gallery.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp.errors import MissingFileError
from zoo_exp.report.masks import choose, read_masks
from zoo_exp.runs import folder
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.tracking.mode import resolve_mode
from zoo_exp.tracking.session import (
    Place,
    Session,
    family,
    pictures,
    plain_key,
    read_marker,
    short,
)

__all__ = ["log_run", "plain_key", "resolve_mode"]

MARKER = "experiment"
SCALARS = (
    "retained",
    "kept_tokens",
    "layer_tokens",
    "select_ms",
    "prefill_decode_ms",
    "flops_tflop",
    "value",
)


def log_run(
    run_dir: Path,
    config: Mapping[str, Any],
    mode_hint: str = "auto",
    project: str = "zoo_exp",
    echo: Callable[[str], None] = print,
    entity: str | None = None,
    tags: Sequence[str] = (),
) -> Path | None:
    """Log results.json, its table and the mask pictures of `run_dir` as one W&B run, and say so in one line.

    The same results are logged once: a second call repeats the line only. A W&B that fails is reported in the line
    and raises nothing: the results are on disk.

    Args:
        run_dir: a run folder with results.json (see `summary.write`).
        config: the resolved configuration.
        mode_hint: auto, online, offline or disabled, from the configuration.
        project: W&B project.
        echo: where the line goes.
        entity: W&B user or team; None is the user's default.
        tags: of the run.

    Returns:
        The folder that W&B wrote, or None where it is disabled or failed.

    Raises:
        MissingFileError: no results in `run_dir`.
        UnknownNameError: a mode that does not exist.
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
    place = Place(run_dir, mode, project, entity, str(results["experiment"]), tuple(tags))
    try:
        folder, line = _log(place, results, config, digest)
    except Exception as error:  # whatever W&B does, the evaluation has succeeded
        echo(f"W&B: failed ({short(error)}); the results are in {run_dir}")
        return None
    echo(line)
    return folder


def _log(place: Place, results: dict[str, Any], config: Mapping[str, Any], digest: str) -> tuple[Path, str]:
    """The W&B run: its folder, and the line for the user."""
    import wandb

    selectors = [str(row["selector"]) for row in results["rows"]]
    session = Session(place, MARKER, str(results["experiment"]), f"experiment/{family(selectors)}", config)
    # What stands in the table and the pictures is written anew by each attempt: nothing of it is repeated.
    row: dict[str, Any] = {**_scalars(results), "results": _table(results, wandb.Table)}
    session.log(row | _pictures(place.run_dir, results, wandb.Image))
    line = session.finish(digest)
    return place.run_dir / session.marker.folder, line


def _results(run_dir: Path) -> dict[str, Any]:
    path = folder.results(run_dir, ".json")
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}; W&B gets what is in it") from error
    except ValueError as error:
        raise MissingFileError(
            f"{path} is damaged ({error}): run the experiment again to rewrite it"
        ) from error
    return document


def _scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Named as W&B groups them: `<task>/<arm>` for metrics, `<quantity>/<arm>` for averages over tasks."""
    scalars = {}
    for row in results["rows"]:
        if row["task"] != AVERAGE:
            scalars[f"{plain_key(row['task'])}/{plain_key(row['arm'])}"] = row["value"]
            continue
        for name in SCALARS:
            key = "mean_score" if name == "value" else name
            scalars[f"{key}/{plain_key(row['arm'])}"] = row.get(name)
    return {key: value for key, value in scalars.items() if value is not None}


def _table(results: Mapping[str, Any], make: Callable[..., Any]) -> Any:
    columns = list(results["rows"][0])
    data = [
        [json.dumps(row[c], sort_keys=True) if isinstance(row[c], dict) else row[c] for c in columns]
        for row in results["rows"]
    ]
    return make(columns=columns, data=data, allow_mixed_types=True)


def _pictures(run_dir: Path, results: Mapping[str, Any], make: Callable[..., Any]) -> dict[str, Any]:
    items = read_masks(run_dir)
    names = list(dict.fromkeys(arm.arm for item in items for arm in item.arms))
    found: dict[str, Any] = dict(pictures(choose(items, names, results["tasks"]), make))
    gallery = run_dir / "masks.png"
    return found | ({"gallery": [make(str(gallery))]} if gallery.exists() else {})
