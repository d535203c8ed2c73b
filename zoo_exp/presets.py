"""Named settings in the package's `configs/`, such as the selector `zoo_closed_form` or the model `llava15_7b`."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from zoo_exp.errors import MissingFileError


def built_in() -> Path:
    """The folder `configs`: inside the package that a wheel installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise MissingFileError(f"no configs/config.yaml in or beside {package}: install the package again")


def choices(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The files of a group by name, sorted; the first folder wins where two have the same name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Names of the package's own settings of a group."""
    return list(choices(group, [built_in()]))


def find(group: str, name: str) -> dict[str, object] | None:
    """The package's own settings of that name, or None where there are none."""
    path = choices(group, [built_in()]).get(name)
    content = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if path is not None and isinstance(content, dict) else None
