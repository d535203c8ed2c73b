"""Imports only go down the floors, and light modules stay light."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "zoo_exp"
# The longest name that fits decides. A module may import its own floor and what lies below.
FLOORS = {
    "zoo_exp": 6,  # the front door: it may name everything, lazily
    "zoo_exp.cli": 6,
    "zoo_exp._cli": 6,
    "zoo_exp.__main__": 6,
    "zoo_exp.api": 6,
    "zoo_exp.pipeline": 5,
    "zoo_exp.rehearsal": 5,
    "zoo_exp.workbench": 5,
    "zoo_exp.tracking": 4,
    "zoo_exp.cluster": 4,
    "zoo_exp.report": 4,
    "zoo_exp.lmms_eval_plugin": 4,
    "zoo_exp.evaluation": 3,
    "zoo_exp.measure": 3,
    "zoo_exp.statistics": 2,
    "zoo_exp.runs": 2,
    "zoo_exp.serving": 2,
    "zoo_exp.selectors": 1,
    "zoo_exp.models": 1,
    "zoo_exp.tasks": 1,
    "zoo_exp.embedded": 1,
    "zoo_exp.config": 1,
    "zoo_exp.testing": 1,
    "zoo_exp.core": 0,
    "zoo_exp.wording": 0,
    "zoo_exp.files": 0,
    "zoo_exp.errors": 0,
    "zoo_exp.addresses": 0,
    "zoo_exp.console": 0,
    "zoo_exp.presets": 0,
    "zoo_exp.registry": 0,
    "zoo_exp.quiet": 0,
    "zoo_exp.threads": 0,
    "zoo_exp.slow_imports": 0,
    "zoo_exp.sharing": 0,
    "zoo_exp.overlays": 0,
}
ENGINE = ("zoo_exp.core", "zoo_exp.selectors", "zoo_exp.models", "zoo_exp.tasks", "zoo_exp.testing")
FORBIDDEN = {
    "zoo_exp": ("lightning", "wandb", "datasets", "transformers"),
    "zoo_exp.selectors": ("lightning", "wandb", "datasets", "transformers"),
    "zoo_exp.models": ("lightning", "wandb", "datasets"),
    "zoo_exp.report": ("torch", "transformers"),
}


def modules():
    """Every module of the package: dotted name -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def below(name, package):
    return name == package or name.startswith(f"{package}.")


def room(name):
    """The package or top-level module that a module belongs to."""
    return ".".join(name.split(".")[:2])


def floor(name):
    return FLOORS[max((known for known in FLOORS if below(name, known)), key=len)]


@functools.cache
def imports(source, lazy=True):
    """Dotted names that `source` imports outside of `if TYPE_CHECKING`; functions count with `lazy` only."""
    names = []

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names.extend(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                names.extend(f"{child.module}.{alias.name}" for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    visit(other)
            elif isinstance(child, ast.expr):
                continue  # an import is a statement
            elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                visit(child)

    visit(ast.parse(source))
    return names


def test_the_reader_of_imports_sees_what_it_should():
    source = (
        "import a.b\nfrom c import d as e\nif TYPE_CHECKING:\n    import hidden\n"
        "def f():\n    from g.h import i\nclass K:\n    import m\n"
        "try:\n    import n\nexcept ImportError:\n    pass\n"
    )
    assert imports(source) == ["a.b", "c.d", "g.h.i", "m", "n"]
    assert imports(source, lazy=False) == ["a.b", "c.d", "m", "n"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_go_down(name):
    ours = [
        used for used in imports(MODULES[name].read_text()) if below(used, "zoo_exp") and used != "zoo_exp"
    ]
    climbing = [
        used for used in ours if floor(used) > floor(name) and not used.startswith("zoo_exp.__version__")
    ]
    assert climbing == []


def uses(name):
    """Modules of the package that a module imports, at any time."""
    found = set()
    for used in imports(MODULES[name].read_text()):
        while used not in MODULES and "." in used:
            used = used.rpartition(".")[0]
        if below(used, "zoo_exp") and used not in ("zoo_exp", name):
            found.add(used)
    return found


def circles(graph):
    """Nodes of a graph that can reach themselves."""
    reach = {node: set(targets) - {node} for node, targets in graph.items()}
    changed = True
    while changed:
        changed = False
        for targets in reach.values():
            more = set().union(*(reach.get(target, set()) for target in targets)) - targets
            changed |= bool(more)
            targets |= more
    return sorted(node for node, targets in reach.items() if node in targets)


def test_the_search_for_circles_finds_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
    assert circles({"a": {"b"}, "b": {"c"}}) == []


def test_no_module_imports_itself_through_others():
    assert circles({name: uses(name) for name in MODULES}) == []


def test_no_package_imports_itself_through_others():
    graph = {}
    for name in MODULES:
        graph.setdefault(room(name), set()).update(room(used) for used in uses(name))
    assert circles(graph) == []


@pytest.mark.parametrize("name", [name for name in MODULES if below(name, "zoo_exp.core")])
def test_core_imports_torch_and_the_standard_library_only(name):
    others = {used.split(".")[0] for used in imports(MODULES[name].read_text())} - sys.stdlib_module_names
    assert others <= {"torch", "zoo_exp"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_module_names_what_its_package_must_not_load(package):
    depth = package == "zoo_exp"
    for name, path in MODULES.items():
        if name == package if depth else below(name, package):
            tops = {
                used.split(".")[0] for used in imports(path.read_text(), lazy=package != "zoo_exp.models")
            }
            assert not tops & set(FORBIDDEN[package]), name


@pytest.mark.parametrize("module", ["zoo_exp", "zoo_exp.selectors", "zoo_exp.tasks", "zoo_exp.config"])
def test_importing_loads_nothing_heavy(module):
    heavy = ["lightning", "wandb", "datasets", "transformers", "pandas", "matplotlib"]
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_pipeline_loads_statistics_and_figures_after_the_answers():
    """Before the first answer no module loads pandas, scipy or matplotlib: they take 1.5 s."""
    left, seen = ["zoo_exp.pipeline"], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for used in imports(MODULES[name].read_text(), lazy=False):
            assert used.split(".")[0] not in ("pandas", "scipy", "matplotlib"), f"{name} imports {used}"
            parts = used.split(".")
            left += [m for i in range(2, len(parts) + 1) if (m := ".".join(parts[:i])) in MODULES]
    assert "zoo_exp.evaluation.module" in seen
    assert "zoo_exp.runs.reading" in seen


def test_every_package_of_the_house_has_a_floor():
    packages = {".".join(name.split(".")[:2]) for name in MODULES}
    assert packages - set(FLOORS) == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_file_stays_under_350_lines(name):
    assert len(MODULES[name].read_text().splitlines()) <= 350


def test_no_name_is_used_for_two_files():
    """Except entry points of packages, base classes, and commands, which are named like what they call."""
    files = {}
    for path in MODULES.values():
        if path.name not in ("__init__.py", "base.py", "cli.py") and path.parent.name != "_cli":
            files.setdefault(path.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: paths for name, paths in files.items() if len(paths) > 1} == {}


def test_no_test_imports_a_conftest():
    """The name means the conftest.py that pytest read last: such a test would depend on the files beside it."""
    pattern = re.compile(r"^\s*(from|import) conftest\b", re.MULTILINE)
    assert [str(path) for path in (ROOT / "tests").rglob("*.py") if pattern.search(path.read_text())] == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    private = re.compile("|".join(rf"(?<![\w.]){folder}/" for folder in ("/work", "/root", "/home")))
    skipped = {
        ".git",
        ".venv",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
        "build",
        "runs",
        "__pycache__",
    }
    kinds = {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".sbatch", ".csv", ".json", ".cfg", ""}
    hits = [
        path.relative_to(ROOT)
        for path in ROOT.rglob("*")
        if path.is_file() and path.suffix in kinds and not skipped & set(path.relative_to(ROOT).parts)
        if path != Path(__file__) and private.search(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert hits == []


def test_the_architecture_page_names_every_room_on_its_floor():
    page = (ROOT / "docs" / "architecture.md").read_text()
    written = {
        room: int(number)
        for number, cell in re.findall(r"^\| (\d) \| (.+?) \|", page, re.MULTILINE)
        for room in re.findall(r"`([\w/.]+)`", cell)
    }
    front_door = {"zoo_exp", "zoo_exp.__main__"}
    rooms = {}
    for name, number in FLOORS.items():
        short = name.removeprefix("zoo_exp.")
        if name not in front_door:
            rooms[f"{short}.py" if (PACKAGE / f"{short}.py").is_file() else f"{short}/"] = number
    assert rooms.items() <= written.items()


WRONG = (
    ["run", "selector=full", "limit=-3"],
    ["run", "selector=zoo", "budget=0"],
    ["run", "selector=full", "task=word2_gqa"],
    ["run", "selector=zo", "budget=3"],
    ["compare", "nowhere"],
    ["report", "nowhere"],
    ["check", "selector", "nowhere.py"],
    ["masks", "nowhere", "--samples", "x"],
)


def test_wrong_arguments_are_refused_before_torch_is_imported():
    code = "import sys\nfrom zoo_exp import cli\nfor words in {}:\n    assert cli.main(words) == 2, words\n"
    code += "    assert not {{'torch', 'pandas'}} & set(sys.modules), words\n"
    subprocess.run([sys.executable, "-c", code.format(WRONG)], check=True, capture_output=True)
