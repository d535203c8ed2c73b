"""Send the results of a run to Weights & Biases (W&B), once, at the end, from what is on disk.

The run folder is the record and W&B is derived from it: an offline W&B file loses its last seconds when a
process is killed, and resuming one writes rows that a later upload drops. Nothing leaves the machine unless
the user is online by choice: WANDB_MODE, the configuration, or an API key that was put where W&B looks for
it.
"""

import hashlib
import json
import netrc
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from zoo_exp.core.errors import MissingFileError, UnknownNameError
from zoo_exp.report.files import write_text_atomic
from zoo_exp.report.frame import AVERAGE
from zoo_exp.report.mask_items import choose, read_masks
from zoo_exp.report.masks import kept_mask

MODES = ("auto", "online", "offline", "disabled")
MARKER = "zoo_exp.json"
SCALARS = ("retained", "kept_tokens", "select_ms", "generate_ms", "flops_tflop", "value")


@dataclass(frozen=True)
class Mode:
    """How to log: `name` is online, offline or disabled; `reason` says who decided."""

    name: str
    reason: str


def resolve_mode(hint: str = "auto") -> Mode:
    """Decide how to log: WANDB_MODE, then `hint` (the configuration), then whether there is an API key.

    Raises:
        UnknownNameError: a mode that does not exist.
    """
    variable = os.environ.get("WANDB_MODE", "").strip().lower()
    variable = {"dryrun": "offline", "run": "online"}.get(variable, variable)
    for given, who in ((variable, "WANDB_MODE"), (hint, "the configuration")):
        if given and given not in MODES:
            raise UnknownNameError("W&B mode", given, MODES, hint=f"It was given by {who}.")
        if given and given != "auto":
            return Mode(given, f"set by {who}")
    source = _key_source()
    return Mode("online", f"API key in {source}") if source else Mode("offline", "no API key found")


def log_run(
    run_dir: Path,
    config: Mapping[str, Any],
    mode_hint: str = "auto",
    project: str = "zoo_exp",
    echo: Callable[[str], None] = print,
) -> Path | None:
    """Log results.json, its table and the mask pictures of `run_dir` as one W&B run, and say so in one line.

    The same results are logged once: a second call repeats the line only.

    Args:
        run_dir: a run folder with results.json (see `summary.write`).
        config: the resolved configuration.
        mode_hint: auto, online, offline or disabled, from the configuration.
        project: W&B project.
        echo: where the line goes.

    Returns:
        The folder that W&B wrote, or None where it is disabled.

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
    marker = run_dir / "wandb" / MARKER
    before = json.loads(marker.read_text()) if marker.exists() else {}
    content = json.dumps([results["rows"], results["tasks"], mode.name], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    if before.get("digest") == digest:
        echo(before["line"])
        return run_dir / str(before["folder"])
    folder, line, identifier = _log(run_dir, results, config, mode, project, before)
    relative = os.path.relpath(folder, run_dir)
    write_text_atomic(
        marker, json.dumps({"digest": digest, "id": identifier, "folder": relative, "line": line}) + "\n"
    )
    echo(line)
    return folder


def _log(
    run_dir: Path,
    results: dict[str, Any],
    config: Mapping[str, Any],
    mode: Mode,
    project: str,
    before: Mapping[str, Any],
) -> tuple[Path, str, str]:
    """One W&B run: its folder, the line for the user, its id."""
    with _environment({"WANDB_DATA_DIR": str(run_dir / "wandb-data"), "WANDB_MODE": mode.name}):
        (run_dir / "wandb-data").mkdir(exist_ok=True)
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        # Two offline folders of one id lose rows at upload, so only an online run goes on under its old id.
        online = mode.name == "online"
        identifier = str(before.get("id")) if online and before.get("id") else uuid.uuid4().hex[:12]
        try:
            run = wandb.init(
                project=project,
                name=results["experiment"],
                group=results["experiment"],
                job_type="eval",
                dir=str(run_dir),
                mode="online" if online else "offline",
                id=identifier,
                resume="allow" if online else None,
                config=dict(config),
                settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=30),
            )
        except wandb.errors.Error as error:
            if not online:
                raise
            instead = Mode("offline", f"online failed: {' '.join(str(error).split())[:120]}")
            return _log(run_dir, results, config, instead, project, {})
        logger = WandbLogger(experiment=run)
        images = _pictures(run_dir, results, wandb.Image)
        row: dict[str, Any] = {**_scalars(results), "results": _table(results, wandb.Table), **images}
        logger.log_metrics(row)
        folder, url = Path(run.dir).parent, run.url if online else ""
        run.finish()
    if online:
        return folder, f"W&B: online ({mode.reason}): {url}", identifier
    command = "wandb" if shutil.which("wandb") else f"{shlex.quote(_shown(Path(sys.executable)))} -m wandb"
    line = f"W&B: offline ({mode.reason}). To upload: {command} sync {shlex.quote(_shown(folder))}"
    return folder, line, identifier


def _results(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "results.json"
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


def plain_key(label: str) -> str:
    """A label as part of a W&B key: keys become file names, and a slash makes a section or a folder.

    >>> plain_key("zoo m=64/h=0.01")
    'zoo m=64_h=0.01'
    """
    return re.sub(r"[^\w .,@%=()+-]", "_", label)


def _table(results: Mapping[str, Any], make: Callable[..., Any]) -> Any:
    columns = list(results["rows"][0])
    data = [
        [json.dumps(row[c], sort_keys=True) if isinstance(row[c], dict) else row[c] for c in columns]
        for row in results["rows"]
    ]
    return make(columns=columns, data=data, allow_mixed_types=True)


def _pictures(run_dir: Path, results: Mapping[str, Any], make: Callable[..., Any]) -> dict[str, list[Any]]:
    """Per arm, the pictures with the kept tokens as a mask that W&B can switch on and off."""
    items = read_masks(run_dir)
    names = list(dict.fromkeys(arm.arm for item in items for arm in item.arms))
    pictures: dict[str, list[Any]] = {}
    for item in choose(items, names, results["tasks"]):
        for arm in item.arms:
            mask = Image.fromarray(kept_mask(arm.indices, item.grid).astype(np.uint8))
            pixels = np.asarray(mask.resize(item.image.size, Image.Resampling.NEAREST))
            labels = {0: "dropped", 1: "kept"}
            caption = f"{item.question} | gold: {item.reference} | answer: {arm.response}"
            picture = make(
                item.image, caption=caption, masks={"tokens": {"mask_data": pixels, "class_labels": labels}}
            )
            pictures.setdefault(f"masks/{plain_key(arm.arm)}", []).append(picture)
    gallery = run_dir / "masks.png"
    return pictures | ({"gallery": [make(str(gallery))]} if gallery.exists() else {})


def _key_source() -> str | None:
    """Where an API key lies, by name only; the key itself is never read into a message."""
    if os.environ.get("WANDB_API_KEY", "").strip():
        return "WANDB_API_KEY"
    path = Path(os.environ.get("NETRC", "") or Path.home() / ".netrc").expanduser()
    try:
        entries = netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError):
        return None
    base = os.environ.get("WANDB_BASE_URL", "")
    hosts = [urlsplit(base).netloc] if base else ["api.wandb.ai"]
    if not base:
        import wandb

        hosts.append(urlsplit(wandb.Settings().base_url).netloc)
    # `default` entries answer for any host, and are no statement about W&B.
    return "netrc" if any(host in entries.hosts for host in hosts) else None


def _shown(path: Path) -> str:
    """The shorter of the absolute and the relative path, as a user would type it."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while; W&B and its Lightning logger read and leave them behind."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
