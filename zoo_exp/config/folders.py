"""Folders of configuration files, and the names that each group offers."""

from collections.abc import Sequence
from pathlib import Path

from zoo_exp.config.checked_yaml import read
from zoo_exp.errors import MissingFileError, UnknownNameError
from zoo_exp.presets import built_in, choices

__all__ = ["GROUPS", "built_in", "choices", "find", "line_of", "read", "search_path"]

GROUPS = ("model", "data", "trainer", "engine", "logger")
"""Groups that Hydra composes into a node of their own; `exp` is merged over everything."""


def search_path(config_dirs: Sequence[str | Path] = ()) -> list[Path]:
    """The built-in folder, followed by the user's folders.

    Raises:
        MissingFileError: a folder that does not exist.
    """
    own = [Path(folder).expanduser().resolve() for folder in config_dirs]
    for folder in own:
        if not folder.is_dir():
            raise MissingFileError(f"--config-dir {folder}: no such folder")
    return [built_in(), *own]


def find(group: str, name: str, folders: Sequence[Path]) -> Path:
    """The file of one choice.

    Raises:
        UnknownNameError: a name that the group does not have.
    """
    names = choices(group, folders)
    if name not in names:
        kind = "experiment" if group == "exp" else group
        hint = f"(python -m zoo_exp list {group}s)" if group in ("exp", "model") else ""
        if group == "trainer" and name in ("cuda", "gpu", "mps"):
            hint = f"trainer=default uses a GPU where there is one; trainer.accelerator={name} requires it."
            raise UnknownNameError(kind, name, (), hint, shown=names)  # "cpu" is near in letters only
        raise UnknownNameError(kind, name, names, hint)
    return names[name]


def line_of(key: str, path: Path) -> int | None:
    """The first line that sets `key` (its last part), for messages; None if there is none."""
    last = key.rsplit(".", 1)[-1]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip(" -{").startswith(f"{last}:") or f" {last}:" in line.split("#")[0]:
            return number
    return None
