"""What every page has, what tables of the documentation list, and that drawn figures are current."""

import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

from zoo_exp import errors
from zoo_exp.report.readme import fill

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INCLUDED = ("changelog.md", "contributing.md", "slurm.md", "index.md")
PAGES = [path for path in sorted(DOCS.glob("*.md")) if path.name not in INCLUDED]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "slurm" / "README.md"], ids=lambda page: page.stem)
def test_a_page_begins_with_what_the_reader_can_do_after_it(page):
    title, _, first, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert first.startswith("After this page "), first


def test_every_page_is_in_the_contents():
    contents = re.findall(r"^\w+(?:/index)?$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {path.stem for path in DOCS.glob("*.md")} | {"studies/index", "api/index"} - {"index"}
    assert pages - {"index"} == set(contents)


def test_every_error_class_is_in_the_faq():
    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    classes = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    assert len(classes) >= 5
    assert [name for name in classes if f"| `{name}` |" not in page] == []


def test_messages_of_the_faq_are_those_of_the_code():
    table = (
        (DOCS / "faq.md")
        .read_text(encoding="utf-8")
        .split("## Frequent messages")[1]
        .split("## Questions")[0]
    )
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "zoo_exp").rglob("*.py"))
    said = re.sub(r'"\s*f?"', "", code)  # texts that go on in the next line
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 10
    parts = [part.strip() for message in messages for part in message.split("…")]
    kinds = ("unknown selector",)  # put together by UnknownNameError
    assert [part for part in parts if part and part not in said and part not in kinds] == []


def test_every_extra_is_on_the_first_page():
    page = (DOCS / "get_started.md").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [name for name in extras if f"`.[{name}]`" not in page] == []


def test_every_experiment_and_study_is_on_a_page():
    reproduce = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    studies = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "configs" / "exp").glob("*.yaml"):
        assert f"exp={path.stem}" in reproduce or f"[{path.stem}]" in studies, path.stem


def test_the_figure_of_the_concepts_is_current(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import draw_concepts

    assert draw_concepts.FILE.read_text(encoding="utf-8") == draw_concepts.figure()
    sys.modules.pop("draw_concepts")


def test_tables_of_results_are_those_of_the_experiments(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import advice

    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert fill(text, ROOT) == text, f"{page.name}: run python benchmarks/advice.py --write"
    page = (DOCS / "which_selector.md").read_text(encoding="utf-8")
    assert advice.filled(page, advice.table()) == page, "run python benchmarks/advice.py --write"
    assert len(re.findall(r"^\| .*\d\.\d", page, re.MULTILINE)) > 20
    sys.modules.pop("advice")


def test_a_page_that_the_site_fills_says_where_its_text_is():
    for name in ("changelog.md", "contributing.md", "slurm.md", "cli.md"):
        text = (DOCS / name).read_text(encoding="utf-8")
        begin = re.search(r"^<!-- (?:include: \S+|reference of the command line) -->$", text, re.MULTILINE)
        assert text[begin.end() :].startswith("\nThe site shows "), name


def test_modules_of_the_reference_exist():
    for page in (DOCS / "api").glob("*.md"):
        for name in re.findall(r"automodule:: ([\w.]+)", page.read_text(encoding="utf-8")):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), (
                f"{page.name}: {name}"
            )
