"""Presets from the package's `configs/`, such as the selector `zoo_closed_form` or the model `llava15_7b`."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from zoo_exp.errors import MissingFileError


def built_in() -> Path:
    """The `configs` folder: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise MissingFileError(f"no configs/config.yaml in or beside {package}: reinstall the package")


def choices(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Files of a config group by name, sorted; of files with the same name, the one in the first folder is used."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Names of the package's presets in a group."""
    return list(choices(group, [built_in()]))


def find(group: str, name: str) -> dict[str, object] | None:
    """The package's preset of that name, or None."""
    path = choices(group, [built_in()]).get(name)
    content = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if path is not None and isinstance(content, dict) else None
