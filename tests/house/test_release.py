"""Version, changelog, citation and the templates of issues and pull requests."""

import re
from pathlib import Path

import pytest
import yaml

import zoo_exp

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
# Of the Citation File Format 1.2.0.
NEEDED = {"cff-version", "message", "title", "authors"}
KNOWN = NEEDED | {"abstract", "type", "license", "keywords", "references", "doi", "url", "repository-code"}
REFERENCE = {"type", "title", "authors", "conference", "year", "repository-code", "notes", "doi", "url"}
PERSON = {"family-names", "given-names", "affiliation", "orcid"}
FIELDS = {"markdown": {"value"}, "input": {"label"}, "textarea": {"label"}}
"""What an element of an issue form needs."""


def test_the_changelog_has_a_section_of_the_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", zoo_exp.__version__)
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.M)
    assert headings[:2] == ["Unreleased", zoo_exp.__version__]
    assert len(set(headings)) == len(headings)


def test_the_version_stands_in_one_place():
    texts = [path.read_text() for path in (ROOT / "pyproject.toml", ROOT / "CITATION.cff", ROOT / "setup.py")]
    assert [text for text in texts if zoo_exp.__version__ in text] == []


def test_the_citation_is_a_citation_file():
    assert CITATION["cff-version"] == "1.2.0"
    assert NEEDED <= set(CITATION) <= KNOWN
    assert CITATION["type"] == "software"
    assert all(set(author) == {"name"} for author in CITATION["authors"])  # an entity
    assert CITATION["license"] == "Apache-2.0"
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors"} <= set(paper) <= REFERENCE
    assert paper["conference"].keys() == {"name"}
    assert all({"family-names", "given-names"} <= set(author) <= PERSON for author in paper["authors"])
    assert isinstance(paper["year"], int)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "labels", "body"} == set(form)
    ids = [element["id"] for element in form["body"] if element["type"] != "markdown"]
    assert len(ids) == len(set(ids)) >= 4
    for element in form["body"]:
        assert FIELDS[element["type"]] <= set(element["attributes"])
    assert any(element.get("validations", {}).get("required") for element in form["body"])


def test_files_and_commands_that_templates_name_exist():
    from zoo_exp.cli import COMMANDS

    paths = [*FORMS, ROOT / ".github/pull_request_template.md", ROOT / "docs/release_checklist.md"]
    text = "\n".join(path.read_text() for path in paths)
    files = set(re.findall(r"\b(?:docs|tests|experiments|zoo_exp)/[\w/]+\.(?:md|py)", text))
    assert len(files) >= 6
    assert [name for name in files if not (ROOT / name).is_file()] == []
    commands = {word for word in re.findall(r"python -m zoo_exp (\w+)", text) if word not in COMMANDS}
    assert commands == set()
    targets = re.findall(r"`make ([\w-]+)`", text)
    assert targets
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.M)] == []
