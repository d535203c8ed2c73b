"""A W&B run: opened under an id that every attempt shares, logged to, and closed within bounded time."""

import json
import os
import shlex
import shutil
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_exp.files import write_text
from zoo_exp.report.mask_items import MaskItem
from zoo_exp.sharing import shareable
from zoo_exp.tracking.content import FOLDER, STAGED, mask_images, taken
from zoo_exp.tracking.mode import Mode, environment

BOUNDS: dict[str, Any] = {
    "init_timeout": 30,
    "finish_timeout": 45.0,  # the rest is on disk, for `wandb sync`
    "x_graphql_retry_max": 3,
    "x_graphql_timeout_seconds": 20,
    "x_file_stream_retry_max": 3,
    "x_file_transfer_retry_max": 3,
    # 1, 2 and 4 s between the attempts: W&B's own waits begin with 2 s and grow to a minute.
    **{
        f"x_{part}_retry_wait_{end}_seconds": seconds
        for part in ("graphql", "file_stream", "file_transfer")
        for end, seconds in (("min", 1), ("max", 4))
    },
    "x_transaction_log_flush_interval": 1,  # a killed process loses one second of rows instead of fifteen
}
PRIVATE: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "host": "",
    "username": "",
} | {
    "disable_git": True,
    "save_code": False,
}
"""Switches off what W&B would send by itself: host, user, program, folders."""


@dataclass(frozen=True)
class Place:
    """Where W&B runs go.

    Attributes:
        run_dir: the run folder; W&B writes inside it only.
        mode: online or offline.
        project: W&B project.
        entity: W&B user or team; None means the user's default.
        group: the experiment, which groups its runs.
        tags: tags of every run.
        media_mb: megabytes that all W&B files of the run folder may take.
    """

    run_dir: Path
    mode: Mode
    project: str = "zoo_exp"
    entity: str | None = None
    group: str = ""
    tags: tuple[str, ...] = ()
    media_mb: float = 20.0

    def room(self, shares: int = 1) -> float:
        """Bytes that the next images may take: one of so many shares of the budget, as far as it is left.

        A quarter of the budget is kept for numbers and W&B's own files.
        """
        budget = 0.75 * self.media_mb * 1e6
        return min(budget / shares, budget - taken(self.run_dir))

    def left_out(self, questions: int) -> str:
        """What the user is told about images that did not fit."""
        return f"W&B: the images of {questions} questions are left out (logger.media_mb={self.media_mb:g} per run)"


@dataclass(frozen=True)
class Marker:
    """The state of a W&B run in the run folder, from which the next attempt continues.

    Attributes:
        id: W&B's id, the same for every attempt.
        folder: folder of the last attempt, relative to the run folder.
        mode: mode of that attempt, online or offline.
        digest: hash of the logged results; empty while the run is unfinished.
        line: the line that was printed.
        history: numbers logged so far. An offline attempt repeats them, because uploading two offline folders of one
            id keeps the rows of the later one: each folder is complete.
    """

    id: str
    folder: str = ""
    mode: str = ""
    digest: str = ""
    line: str = ""
    history: tuple[dict[str, float], ...] = ()


def read_marker(run_dir: Path, name: str) -> Marker:
    """The marker of a W&B run; a new one, with a new id, if there is none that can be read."""
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
    """Write the marker."""
    write_text(run_dir / FOLDER / f"{name}.json", json.dumps(marker.__dict__) + "\n")


class Session:
    """An open W&B run.

    Args:
        place: where it goes; the mode becomes offline if W&B does not respond.
        marker: name of its marker in the run folder.
        name: display name.
        job_type: W&B job type.
        config: the resolved configuration.

    Raises:
        Exception: any error of W&B if the run cannot be opened offline either.
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
            # Until this process ends, W&B treats the id of a run that it failed to open or close as in use.
            self.marker = replace(before, id=uuid.uuid4().hex[:12])
            self._open(name, job_type, config)
        folder = os.path.relpath(Path(self.run.dir).parent, place.run_dir)
        self.marker = replace(self.marker, folder=folder, mode=self.place.mode.name, digest="", line="")
        self._remember()
        if not (self.place.mode.online and before.mode == "online"):
            for row in before.history:
                self.run.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row; its numbers are kept for the next attempt."""
        with self._inside():
            self.run.log(dict(row))
        numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        self.marker = replace(self.marker, history=(*self.marker.history, numbers))
        self._remember()

    def finish(self, digest: str = "") -> str:
        """Close the run and return the line for the user; a `digest` marks the run as complete."""
        with self._inside():
            url = str(self.run.url or "") if self.place.mode.online else ""
            self.run.finish()
        line = describe(self.place, url)
        self.marker = replace(self.marker, digest=digest, line=line)
        self._remember()
        return line

    def log_images(self, row: Mapping[str, Any], items: Sequence[MaskItem], room: float) -> int:
        """Log one row and the images of some questions; the number of those that do not fit into `room` bytes."""
        import wandb

        self._staged.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._staged) as staging:
            images, left_out = mask_images(items, wandb.Image, room, Path(staging))
            self.log({**row, **images})
        return left_out

    @property
    def _staged(self) -> Path:
        return self.place.run_dir / STAGED

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
        # Tables and images are staged inside the run folder, so that an offline run can be uploaded from anywhere.
        self._staged.mkdir(parents=True, exist_ok=True)
        values = {"WANDB_DATA_DIR": str(self._staged), "WANDB_MODE": self.place.mode.name}
        return environment(
            values | {"WANDB_ERROR_REPORTING": "false"}
        )  # error reports are sent to a third party, even offline


def short(error: BaseException) -> str:
    """The message of an exception in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def describe(place: Place, url: str = "") -> str:
    """One line: the URL of the run, or the command that uploads it and the others of its folder."""
    if place.mode.online:
        return f"W&B: online ({place.mode.reason}): {url}"
    command = "wandb" if shutil.which("wandb") else f"{shlex.quote(_shown(Path(sys.executable)))} -m wandb"
    folders = sorted((place.run_dir / FOLDER).glob("offline-run-*"))
    shown = shlex.quote(_shown(folders[0] if len(folders) == 1 else place.run_dir / FOLDER))
    every = "" if len(folders) == 1 else "/offline-run-*"
    return f"W&B: offline ({place.mode.reason}). To upload: {command} sync {shown}{every}"


def _shown(path: Path) -> str:
    """The shorter of the absolute and the relative path."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
