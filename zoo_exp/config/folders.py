"""Where configuration files lie, and which names each group offers."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError

GROUPS = ("model", "data", "trainer", "logger")
"""Groups that Hydra composes into a node of their own; `exp` is composed over everything."""


def built_in() -> Path:
    """The folder `configs`: inside the package that a wheel installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise MissingFileError(f"no configs/config.yaml in or beside {package}: install the package again")


def search_path(config_dirs: Sequence[str | Path] = ()) -> list[Path]:
    """The built-in folder, then the user's own ones.

    Raises:
        MissingFileError: a folder that does not exist.
    """
    own = [Path(folder).expanduser().resolve() for folder in config_dirs]
    for folder in own:
        if not folder.is_dir():
            raise MissingFileError(f"--config-dir {folder}: there is no such folder")
    return [built_in(), *own]


def choices(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The files of a group by name, sorted; the first folder wins where two have the same name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find(group: str, name: str, folders: Sequence[Path]) -> Path:
    """The file of one choice.

    Raises:
        UnknownNameError: a name that the group does not have.
    """
    names = choices(group, folders)
    if name not in names:
        kind = "experiment" if group == "exp" else group
        hint = f"(python -m zoo_exp list {group}s)" if group in ("exp", "model") else ""
        raise UnknownNameError(kind, name, names, hint)
    return names[name]


def read(path: Path) -> dict[str, object]:
    """A YAML file as a mapping, before any interpolation.

    Raises:
        InvalidValueError: a file that is not YAML, or not a mapping, with its line.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InvalidValueError(f"{place} is not YAML: {getattr(error, 'problem', error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidValueError(f"{path}: a configuration file is a mapping of keys to values")
    return content


def line_of(key: str, path: Path) -> int | None:
    """The line in which `key` (its last part) first stands as a key, so that a message can name it."""
    last = key.rsplit(".", 1)[-1]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip(" -{").startswith(f"{last}:") or f" {last}:" in line.split("#")[0]:
            return number
    return None
