"""YAML files that may come from somebody else: read without surprises, refused with file and line.

Experiment files are shared between people. A file may hold plain values, anchors, and interpolations of its own keys
such as `${model.budgets}`. Refused are duplicate keys, recursive anchors, alias bombs, deep nesting, and resolvers such
as `${oc.env:HOME}`, which would write the reader's environment into a run folder.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

from zoo_exp.errors import InvalidValueError, MissingFileError

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_VALUES = 100_000
"""Values of a file with all aliases expanded."""
_PLAIN = re.compile(r"\$\{[\w.\[\]]+\}")
"""An interpolation of another key, as opposed to a resolver."""


def read(path: Path) -> dict[str, Any]:
    """Read a YAML file as a mapping without resolving interpolations; an empty file gives an empty mapping.

    Raises:
        InvalidValueError: not YAML, not a mapping, or something that a configuration file must not hold; names the
            file and the line.
        MissingFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MissingFileError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InvalidValueError(
            f"{path} is larger than {MAX_BYTES // 2**20} MiB: it is no configuration file"
        )
    try:
        content = _content(data.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path} is not UTF-8 text: {error.reason}") from None
    except RecursionError:
        raise InvalidValueError(f"{path}: values are nested too deep (at most {MAX_DEPTH} levels)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidValueError(f"{place}: not valid YAML: {problem}") from None
    except InvalidValueError:
        raise
    except ValueError as error:  # a date such as 2024-13-45, or a number with too many digits
        raise InvalidValueError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidValueError(f"{path}: a configuration file must be a mapping of keys to values")
    return content


def _content(text: str, path: Path) -> Any:
    """What a YAML text says, once it has been checked."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, path)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(root: yaml.Node, path: Path) -> None:
    """Refuse what a configuration file must not hold.

    Raises:
        InvalidValueError: with file and line.
    """
    values = _expanded(root, path, (), {})
    if values > MAX_VALUES:
        raise InvalidValueError(
            f"{path}: its aliases expand to {values:.3g} values, at most {MAX_VALUES} are allowed"
        )


def _expanded(node: yaml.Node, path: Path, above: tuple[int, ...], known: dict[int, int]) -> int:
    """Number of values below a node with aliases expanded; checks every node once.

    Args:
        node: where to start.
        path: for messages.
        above: ids of the nodes that contain it.
        known: results by node id.
    """
    if id(node) in above:
        raise InvalidValueError(f"{_place(path, node)}: an anchor contains itself")
    if len(above) > MAX_DEPTH:
        raise InvalidValueError(
            f"{_place(path, node)}: values are nested too deep (at most {MAX_DEPTH} levels)"
        )
    if id(node) not in known:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
        elif isinstance(node, yaml.ScalarNode):
            _check_text(node, path)
        inner = [*above, id(node)]
        known[id(node)] = 1 + sum(_expanded(child, path, tuple(inner), known) for child in _children(node))
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_keys(node: yaml.MappingNode, path: Path) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidValueError(f"{_place(path, key)}: a key must be text")
        if key.value in seen and key.value != "<<":
            first = seen[key.value]
            raise InvalidValueError(
                f"{_place(path, key)}: key '{key.value}' is repeated (first in line {first})"
            )
        seen[key.value] = key.start_mark.line + 1


def _check_text(node: yaml.ScalarNode, path: Path) -> None:
    if "${" in _PLAIN.sub("", str(node.value)):
        raise InvalidValueError(
            f"{_place(path, node)}: only interpolations of other keys such as ${{model.path}} are allowed in files; "
            "resolvers such as ${oc.env:NAME} work on the command line"
        )


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"


class CheckedFileSource(FileConfigSource):
    """Hydra's source of configuration files, restricted to files that `read` accepts, below its own folder."""

    @staticmethod
    def scheme() -> str:
        """The prefix of such folders in Hydra's search path."""
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        """Check a file, then load it as Hydra does."""
        folder = os.path.realpath(self.path)
        path = os.path.realpath(os.path.join(folder, self._normalize_file_name(config_path)))
        if os.path.commonpath([folder, path]) != folder:
            raise InvalidValueError(
                f"{config_path}: a configuration file must not include files outside {folder}"
            )
        if not os.path.exists(path):
            raise ConfigLoadError(f"Config not found : {path}")
        read(Path(path))
        return super().load_config(config_path)


def register_source() -> None:
    """Make `checked://FOLDER` known to Hydra; calling it again changes nothing."""
    Plugins.instance().register(CheckedFileSource)
