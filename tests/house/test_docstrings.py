"""Public names have docstrings with arguments, shapes, results and errors: the API reference is made of them."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import zoo_exp

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = sorted(
    {
        name
        for page in (ROOT / "docs/api").glob("*.md")
        for name in re.findall(r"automodule:: (zoo_exp[\w.]*)", page.read_text())
    }
)
"""Modules whose names are in the API reference."""
TOLD = (
    *("api", "errors", "registry", "models.base", "models.families", "models.loading", "models.prompt"),
    *("models.pruning", "selectors", "selectors.allocation", "selectors.base", "selectors.layer.base"),
    *("tasks", "tasks.base", "tasks.hidden_answers", "testing", "testing.contract", "testing.outcomes"),
    *("testing.sample_images", *(f"core.{p.stem}" for p in sorted((ROOT / "zoo_exp/core").glob("[!_]*.py")))),
)
"""Modules that users call and subclass: of these names, every argument, shape, result and error is told."""
EXPORTED = {module.removeprefix("zoo_exp.") for module in zoo_exp._LAZY.values()}
OWN_ERRORS = {"NotImplementedError", "ContractError"}
"""Raised by methods that subclasses implement, and by every check of the contract."""


def path_of(module):
    """File of a module."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public(tree):
    """Name, class (or None) and node of every public class, function and method."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        yield node.name, None, node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                yield f"{node.name}.{inner.name}", node, inner


def without_docstring(source):
    """Public names without one."""
    tree = ast.parse(source)
    names = [name for name, _, node in public(tree) if not ast.get_docstring(node)]
    return names if ast.get_docstring(tree) else ["the module", *names]


def incomplete(source):
    """What the docstrings of public names do not tell.

    Arguments (of functions with two and more) and fields need a line of their own, or their name in backticks;
    tensors a shape in brackets; several results `Returns`; errors that the body raises `Raises`. Methods that
    override one of a base class in the file are described there.
    """
    tree = ast.parse(source)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for name, owner, node in public(tree):
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            yield from (f"{name}: attribute {n}" for n in _fields(node) if not _told(n, text, node))
        elif owner is None or not _overrides(owner, node.name, classes):
            yield from (f"{name}: {what}" for what in _lacking(node, text))


def _lacking(node, text):
    given = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
    returns = ast.unparse(node.returns) if node.returns else "None"
    if len(given) > 1:
        yield from (f"argument {a.arg}" for a in given if not _told(a.arg, text))
    types = [ast.unparse(a.annotation) for a in given if a.annotation is not None]
    if any(re.search(r"\bTensor\b", t) for t in (*types, returns)) and not re.search(r"\[[^\]]*\]", text):
        yield "shape of a tensor"
    is_property = any("property" in ast.unparse(d) for d in node.decorator_list)
    if returns.startswith("tuple") and not is_property and "Returns:" not in text:
        yield "Returns"
    raised = {
        call.exc.func.id
        for call in ast.walk(node)
        if isinstance(call, ast.Raise)
        and isinstance(call.exc, ast.Call)
        and isinstance(call.exc.func, ast.Name)
        and call.exc.func.id.endswith("Error")
    }
    yield from (
        f"Raises {n}" for n in sorted(raised - OWN_ERRORS) if not re.search(rf"^ *.*\b{n}\b.*:", text, re.M)
    )


def _fields(node):
    """Names of the fields of a class."""
    return [
        inner.target.id
        for inner in node.body
        if isinstance(inner, ast.AnnAssign)
        and isinstance(inner.target, ast.Name)
        and not inner.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(inner.annotation)
    ]


def _told(name, text, node=None):
    """Whether a docstring names an argument or attribute; a field may have a string below it."""
    if (
        re.search(rf"^ *([\w, ]+, )?\*{{0,2}}{name}(, [\w, ]+)?( \(.*\))?:", text, re.M)
        or f"`{name}`" in text
    ):
        return True
    body = node.body if node is not None else []
    return any(
        isinstance(field, ast.AnnAssign)
        and getattr(field.target, "id", "") == name
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        for field, below in pairwise(body)
    )


def _overrides(owner, name, classes):
    bases = [classes[b.id] for b in owner.bases if isinstance(b, ast.Name) and b.id in classes]
    own = any(isinstance(i, ast.FunctionDef) and i.name == name for base in bases for i in base.body)
    return own or any(_overrides(base, name, classes) for base in bases)


def test_every_name_of_the_reference_has_a_docstring():
    assert len(REFERENCE) > 50
    modules = [*REFERENCE, *(f"zoo_exp.{name}" for name in {*TOLD, *EXPORTED})]
    lacking = [f"{m}: {name}" for m in modules for name in without_docstring(path_of(m).read_text())]
    assert lacking == []


def test_what_users_call_and_subclass_is_told_in_full():
    modules = sorted({*TOLD, *EXPORTED})
    assert [f"{m}.{what}" for m in modules for what in incomplete(path_of(f"zoo_exp.{m}").read_text())] == []


def test_exported_names_exist():
    for name, module in zoo_exp._LAZY.items():
        tree = ast.parse(path_of(module).read_text())
        assert name in {found for found, _, _ in public(tree)}


SOURCE = '''
class Base:
    """A base."""

    width: int
    depth: int
    """Layers."""

    def both(self, x: Tensor, k: int) -> tuple[Tensor, int]:
        """Something of `x`."""
        raise InvalidValueError("no")

class Derived(Base):
    """One more."""

    def both(self, x, k):
        """As there."""

def bare(x):
    return x

def told(x: Tensor, k: int) -> Tensor:
    """The first `k` rows.

    Args:
        x: rows [N, D].
    """
'''


def test_the_rules_find_what_is_missing():
    assert without_docstring(SOURCE) == ["the module", "bare"]
    assert list(incomplete(SOURCE)) == [
        "Base: attribute width",
        "Base.both: argument k",
        "Base.both: shape of a tensor",
        "Base.both: Returns",
        "Base.both: Raises InvalidValueError",
    ]


@pytest.mark.parametrize("module", ["zoo_exp.core.fusion", "zoo_exp.selectors.layer.base"])
def test_modules_and_packages_are_found(module):
    assert path_of(module).is_file()
