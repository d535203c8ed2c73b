"""The registry behind selectors, tasks and model families.

A registry holds built-in names, names added by a decorator, and names of installed entry points. Built-in names are
lazy: they refer to "module:attribute", which is imported on first use, so that listing names imports nothing.
"""

import ast
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from zoo_exp.errors import InvalidValueError, UnknownNameError

T = TypeVar("T")


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
    if module == "__main__":  # `python -m package.module` also imports the module under its real name
        module = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", module)
    return f"{module}:{owner.__qualname__}"


def _value(point: EntryPoint | None) -> str | None:
    """The target of an entry point without its extras."""
    return None if point is None else f"{point.module}:{point.attr}"
