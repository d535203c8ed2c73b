"""The registry behind selectors, tasks and model families.

A registry holds built-in names, names added by a decorator, and names of installed entry points. Built-in names are
lazy: they refer to "module:attribute", which is imported on first use, so that listing names imports nothing.
`load_file` imports a user's own Python file, so that a class in it can be added without packaging.
"""

import ast
import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError, ZooExpError

T = TypeVar("T")
_CODE_FILE = re.compile(r"(?P<path>.*\.py)(?::(?P<name>.*))?", re.DOTALL)
_FILES: dict[str, Path] = {}
"""Module of a user's own file -> the file."""


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: name of the kind of object in messages, for example "selector".
        group: entry-point group of installed packages.
        built_in: name -> "module:attribute".
        hint: end of the message for an unknown name: how to list the names.
        fallback: "module:attribute" of the object returned for unknown names; None refuses them.

    Attributes:
        built_in: as given.
    """

    def __init__(
        self, kind: str, group: str, built_in: Mapping[str, str], hint: str = "", fallback: str | None = None
    ) -> None:
        self.kind, self.group, self.built_in, self.hint = kind, group, dict(built_in), hint
        self.fallback = fallback
        self._added: dict[str, T] = {}

    def names(self) -> list[str]:
        """All names: built-in, then added, then installed."""
        return list(dict.fromkeys([*self.built_in, *self._added, *self._installed]))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._added or name in self._installed

    def check(self, name: str) -> None:
        """Raise an error for an unknown name, unless there is a fallback; imports nothing.

        Raises:
            UnknownNameError: no such name; the message suggests the nearest one.
        """
        if name not in self and self.fallback is None:
            raise UnknownNameError(self.kind, name, self.names(), self.hint)

    def load(self, name: str) -> T:
        """Return the object of that name; import it if necessary.

        Raises:
            UnknownNameError: no such name; the message suggests the nearest one.
            InvalidValueError: an installed package's object cannot be imported.
        """
        self.check(name)
        if name in self._added:
            return self._added[name]
        if name in self.built_in or name not in self._installed:
            module, _, attribute = (self.built_in.get(name) or str(self.fallback)).partition(":")
            found: T = getattr(import_module(module), attribute)
            return found
        point = self._installed[name]
        try:
            found = point.load()
        except (ImportError, AttributeError) as error:
            raise InvalidValueError(
                f"the installed {self.kind} '{name}' ({point.value}) cannot be imported: {error}"
            ) from error
        return found

    def add(self, name: str, item: T) -> None:
        """Add an object under a name; called by the `register` decorators.

        The same class may be added again (for example, when a notebook cell is rerun), and may also be an entry point.

        Args:
            name: the name.
            item: the object.

        Raises:
            InvalidValueError: the name is empty, or belongs to another object.
        """
        label, origin = getattr(item, "__name__", type(item).__name__), _origin(item)
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"{label} has no name: set the class attribute `name`")
        owners = {self.built_in.get(name), _value(self._installed.get(name))}
        if name in self._added:
            owners.add(_origin(self._added[name]))
        if owners - {None, origin}:
            file = _FILES.get(getattr(item, "__module__", ""))
            label += f" in {file}" if file else ""
            raise InvalidValueError(f"a {self.kind} named '{name}' exists already: give {label} another name")
        self._added[name] = item

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        """Entry points of the group by name.

        Raises:
            InvalidValueError: two different objects with one name.
        """
        points: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            owner = self.built_in.get(point.name) or _value(points.get(point.name))
            if owner not in (None, _value(point)):
                raise InvalidValueError(
                    f"the installed {self.kind} '{point.name}' ({point.value}) has the name of {owner}: uninstall it"
                )
            points[point.name] = point
        return points


def is_code_file(name: str) -> bool:
    """Whether a name is that of a Python file, with or without a class: `mine.py`, `folder/mine.py:Mine`."""
    return _CODE_FILE.fullmatch(name) is not None


def split_code_file(name: str) -> tuple[Path, str]:
    """The file and the class of `mine.py:Mine`.

    Args:
        name: the text.

    Returns:
        The path, and the name of the class, which is empty where none is given.

    Raises:
        InvalidValueError: another form.

    >>> path, kind = split_code_file("mine.py:Mine")
    >>> path.name, kind
    ('mine.py', 'Mine')
    """
    found = _CODE_FILE.fullmatch(name)
    if found is None:
        raise InvalidValueError(f"'{name}' is no Python file: give FILE.py:CLASS")
    return Path(found["path"]).expanduser(), found["name"] or ""


def read_code(path: Path) -> bytes:
    """Content of a user's own Python file.

    Raises:
        MissingFileError: the file does not exist or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        near = path.parent.glob("*.py") if path.parent.is_dir() else ()
        close = get_close_matches(path.name, sorted(other.name for other in near), n=1, cutoff=0.5)
        guess = f". Did you mean '{path.with_name(close[0])}'?" if close else ""
        raise MissingFileError(f"cannot read {path}: {error.strerror or error}{guess}") from None


def load_file(path: Path) -> ModuleType:
    """Import a user's own Python file; an edited file is imported anew.

    The module is named after the file and its content, so that the same source has the same name in every process,
    whatever its folder. While the file runs, it may import modules from its own folder.

    Raises:
        MissingFileError: the file does not exist or cannot be read.
        InvalidValueError: the file does not compile, or fails while it runs; names the line.
    """
    data = read_code(path)
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{stem}_{hashlib.sha256(data).hexdigest()[:12]}"
    if name in sys.modules and _FILES.get(name) == path.absolute():
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path.absolute())
    folder = str(path.absolute().parent)
    sys.modules[name], _FILES[name] = module, path.absolute()
    # Last in the search path, so that no file beside it hides an installed module.
    sys.path.append(folder)
    try:
        exec(compile(data, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise InvalidValueError(_failure(error, path)) from error
    finally:
        sys.path.remove(folder)
    return module


def _failure(error: BaseException, path: Path) -> str:
    """One line on why a file cannot be imported: the file, the line in it, and the reason."""
    if isinstance(error, SyntaxError):
        place = path if error.filename in (None, str(path.absolute())) else error.filename
        return f"{place}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
    place = f"{path}, line {lines[-1]}" if lines else str(path)
    reason = " ".join(str(error).split())[:300]
    return f"{place}: {reason if isinstance(error, ZooExpError) else f'{type(error).__name__}: {reason}'}"


def is_ours(kind: type) -> bool:
    """Whether a class belongs to this package; the others are a user's own, and may change from run to run."""
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def outline(target: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read the summary and attributes of a class from its source, without importing the module.

    Args:
        target: "module:Class" of this package.
        defaults: class attributes to read -> value for a class that does not define them.

    Returns:
        `summary` (first line of the docstring), and the value of each attribute that is a literal or a frozenset of
        literals.
    """
    module, _, name = target.partition(":")
    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    facts = {**defaults, "summary": (ast.get_docstring(found) or "").partition("\n")[0]}
    for line in found.body:
        target_name = line.target if isinstance(line, ast.AnnAssign) else None
        if (
            isinstance(line, ast.AnnAssign)
            and isinstance(target_name, ast.Name)
            and target_name.id in defaults
        ):
            value: Any = line.value
            is_call = isinstance(value, ast.Call)
            literal = ast.literal_eval(value.args[0]) if is_call and value.args else ()
            facts[target_name.id] = frozenset(literal) if is_call else ast.literal_eval(value)
    return facts


def _origin(item: object) -> str:
    """Module and qualified name of an object or of its class: "module:qualname"."""
    owner = item if isinstance(item, type) else type(item)
    module = owner.__module__
    if module in _FILES:  # named after its content, which may change from one import to the next
        return f"{_FILES[module]}:{owner.__qualname__}"
    if module == "__main__":  # `python -m package.module` also imports the module under its real name
        module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", module)
    return f"{module}:{owner.__qualname__}"


def _value(point: EntryPoint | None) -> str | None:
    """The target of an entry point without its extras."""
    return None if point is None else f"{point.module}:{point.attr}"


_SECTION = re.compile(r"^(?:Attributes|Args):\n((?:(?: .*)?\n?)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+)(?: \(.*?\))?: (.*(?:\n     .*)*)", re.MULTILINE)
"""Name and description in such a section of a docstring."""


def meanings_of(kind: type) -> dict[str, str]:
    """Attribute -> meaning, from the docstring's section `Attributes:` (or `Args:`) of a class and its base classes."""
    meanings: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = _SECTION.search(inspect.cleandoc(vars(each).get("__doc__") or ""))
        entries = _ENTRY.findall(section[1]) if section else []
        meanings |= {name: " ".join(text.split()) for name, text in entries}
    return meanings
