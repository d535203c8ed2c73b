"""One W&B run: opened under an id that stays the same, fed, and closed within bounded time."""

import json
import os
import re
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zoo_exp.files import write_text
from zoo_exp.report.masks import MaskItem, kept_mask
from zoo_exp.tracking.mode import Mode, environment

FOLDER = "wandb"
BOUNDS: dict[str, Any] = {
    "init_timeout": 30,
    "finish_timeout": 45.0,  # what is not uploaded by then is on disk, for `wandb sync`
    "x_graphql_retry_max": 3,
    "x_graphql_timeout_seconds": 20,
    "x_file_stream_retry_max": 3,
    "x_file_transfer_retry_max": 3,
    "x_transaction_log_flush_interval": 1,  # a killed process loses a second of rows instead of fifteen
}
PRIVATE: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
} | {
    "disable_git": True,
    "save_code": False,
}
"""What W&B would send by itself: host, user, program and folders are nobody's business."""


@dataclass(frozen=True)
class Place:
    """Where W&B runs go.

    Attributes:
        run_dir: the run folder; everything that W&B writes lies inside it.
        mode: online or offline.
        project: W&B project.
        entity: W&B user or team; None is the user's default.
        group: the experiment, under which its runs stand together.
        tags: of every run.
    """

    run_dir: Path
    mode: Mode
    project: str = "zoo_exp"
    entity: str | None = None
    group: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Marker:
    """What the run folder remembers of one W&B run, so that the next attempt goes on with it.

    Attributes:
        id: W&B's id, the same for every attempt.
        folder: where its last attempt lies, inside the run folder.
        mode: online or offline, of that attempt.
        digest: of what is logged in full; empty while the run is unfinished.
        line: what the user was told.
        history: rows of plain numbers logged so far. An offline attempt repeats them, because uploading two offline
            folders of one id keeps the rows of the later one: so each folder is whole.
    """

    id: str
    folder: str = ""
    mode: str = ""
    digest: str = ""
    line: str = ""
    history: tuple[dict[str, float], ...] = ()


def read_marker(run_dir: Path, name: str) -> Marker:
    """The marker of a W&B run of this folder; a new one, with a new id, where there is none that can be read."""
    try:
        content = json.loads((run_dir / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        history = tuple(dict(row) for row in content.get("history", ()))
        plain = {key: str(content.get(key) or "") for key in ("id", "folder", "mode", "digest", "line")}
        if plain["id"]:
            return Marker(**plain, history=history)
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return Marker(uuid.uuid4().hex[:12])


def write_marker(run_dir: Path, name: str, marker: Marker) -> None:
    """Remember it."""
    write_text(run_dir / FOLDER / f"{name}.json", json.dumps(marker.__dict__) + "\n")


class Session:
    """An open W&B run.

    Args:
        place: where it goes; its mode may become offline where W&B does not answer.
        marker: its name in the run folder.
        name: what W&B shows.
        job_type: what kind of run it is.
        config: what it was made with.

    Raises:
        Exception: whatever W&B raises, where it cannot even be opened offline.
    """

    def __init__(
        self, place: Place, marker: str, name: str, job_type: str, config: Mapping[str, Any]
    ) -> None:
        self.place, self._name = place, marker
        self.marker = read_marker(place.run_dir, marker)
        before = self.marker
        try:
            self._open(name, job_type, config)
        except Exception as error:
            if place.mode.online:
                self.place = replace(place, mode=Mode("offline", f"online failed: {short(error)}"))
            # W&B keeps the id of a run that it could not open or close as being in use, until this process ends.
            self.marker = replace(before, id=uuid.uuid4().hex[:12])
            self._open(name, job_type, config)
        folder = os.path.relpath(Path(self.run.dir).parent, place.run_dir)
        self.marker = replace(self.marker, folder=folder, mode=self.place.mode.name, digest="", line="")
        self._remember()
        if not (self.place.mode.online and before.mode == "online"):
            for row in before.history:
                self.run.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row; its numbers are remembered for the next attempt."""
        with self._inside():
            self.run.log(dict(row))
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        self.marker = replace(self.marker, history=(*self.marker.history, numbers))
        self._remember()

    def finish(self, digest: str = "") -> str:
        """Close the run; what the user is told. `digest` says that all of it is logged."""
        with self._inside():
            url = str(self.run.url or "") if self.place.mode.online else ""
            self.run.finish()
        line = describe(self.place, url)
        self.marker = replace(self.marker, digest=digest, line=line)
        self._remember()
        return line

    def _remember(self) -> None:
        write_marker(self.place.run_dir, self._name, self.marker)

    def _open(self, name: str, job_type: str, config: Mapping[str, Any]) -> None:
        with self._inside():
            import wandb

            known = wandb.Settings.model_fields
            settings = {key: value for key, value in (PRIVATE | BOUNDS).items() if key in known}
            online = self.place.mode.online
            self.run = wandb.init(
                project=self.place.project,
                entity=self.place.entity,
                name=name,
                group=self.place.group or None,
                job_type=job_type[:64],
                tags=list(self.place.tags) or None,
                dir=str(self.place.run_dir),
                mode="online" if online else "offline",
                id=self.marker.id,
                resume="allow" if online else None,
                reinit="create_new",
                config=shareable(config),
                settings=wandb.Settings(**settings),
            )

    def _inside(self) -> Any:
        # Tables and pictures are staged there: an offline run can then be uploaded from anywhere.
        data = self.place.run_dir / "wandb-data"
        data.mkdir(parents=True, exist_ok=True)
        values = {"WANDB_DATA_DIR": str(data), "WANDB_MODE": self.place.mode.name}
        return environment(
            values | {"WANDB_ERROR_REPORTING": "false"}
        )  # its reports go elsewhere, even offline


def short(error: BaseException) -> str:
    """What went wrong, on one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without folders of the machine, which are nobody's business.

    >>> shareable({"out": "/disk/me", "data": {"root": "/disk/me"}, "overrides": ["seed=1", "out=/disk/me"]})
    {'data': {}, 'overrides': ['seed=1']}
    """
    plain = {key: value for key, value in config.items() if key != "out"}
    if isinstance(plain.get("data"), Mapping):
        plain["data"] = {key: value for key, value in plain["data"].items() if key != "root"}
    if "overrides" in plain:
        private = ("out=", "data.root=", "model.path=")
        plain["overrides"] = [text for text in plain["overrides"] if not str(text).startswith(private)]
    return plain


def plain_key(label: str) -> str:
    """A label as part of a W&B key: keys become file names, and a slash makes a section or a folder.

    >>> plain_key("zoo m=64/h=0.01")
    'zoo m=64_h=0.01'
    """
    return re.sub(r"[^\w .,@%=()+-]", "_", label)


def family(selectors: Sequence[str]) -> str:
    """The job type's second part: the one selector under study, or `comparison`; sanity arms do not count.

    >>> family(["full", "zoo", "zoo", "random", "blind"]), family(["full", "zoo", "divprune"])
    ('zoo', 'comparison')
    """
    studied = dict.fromkeys(name for name in selectors if name not in SANITY)
    return next(iter(studied)) if len(studied) == 1 else "comparison" if studied else "sanity"


SANITY = ("full", "blind", "random", "uniform_grid", "feature_norm", "resize")


def pictures(items: Sequence[MaskItem], make: Callable[..., Any]) -> dict[str, list[Any]]:
    """Per arm, the pictures with the kept tokens as a mask that W&B can switch on and off.

    Args:
        items: questions with masks.
        make: `wandb.Image`.
    """
    found: dict[str, list[Any]] = {}
    for item in items:
        for arm in item.arms:
            mask = Image.fromarray(kept_mask(arm.indices, item.grid).astype(np.uint8))
            pixels = np.asarray(mask.resize(item.image.size, Image.Resampling.NEAREST))
            labels = {0: "dropped", 1: "kept"}
            caption = f"{item.question} | gold: {item.reference} | answer: {arm.response}"
            picture = make(
                item.image, caption=caption, masks={"tokens": {"mask_data": pixels, "class_labels": labels}}
            )
            found.setdefault(f"masks/{plain_key(arm.arm)}", []).append(picture)
    return found


def describe(place: Place, url: str = "") -> str:
    """One line: where the run is, or how to upload it and the others of its folder."""
    if place.mode.online:
        return f"W&B: online ({place.mode.reason}): {url}"
    command = "wandb" if shutil.which("wandb") else f"{shlex.quote(_shown(Path(sys.executable)))} -m wandb"
    folders = sorted((place.run_dir / FOLDER).glob("offline-run-*"))
    shown = shlex.quote(_shown(folders[0] if len(folders) == 1 else place.run_dir / FOLDER))
    every = "" if len(folders) == 1 else "/offline-run-*"
    return f"W&B: offline ({place.mode.reason}). To upload: {command} sync {shown}{every}"


def _shown(path: Path) -> str:
    """The shorter of the absolute and the relative path, as a user would type it."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
