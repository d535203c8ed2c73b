"""The documentation site is built without a warning, and every link in it leads somewhere."""

import doctest
import importlib
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXTENSIONS = sorted(path.stem for path in (DOCS / "_ext").glob("*.py"))


class Page(HTMLParser):
    """Ids and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Note an id and where the tag points to."""
        values = dict(attributes)
        self.ids.add(values.get("id"))
        self.links |= {values[name] for name in ("href", "src") if values.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    from sphinx.cmd.build import main

    folder = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "cache"), str(DOCS), str(folder)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the next version of Sphinx, about the extensions
        assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_in_the_site(site):
    sources = [path.relative_to(DOCS) for path in DOCS.rglob("*.md") if "examples" not in path.parts]
    assert len(sources) > 30
    assert [path for path in sources if not (site / path.with_suffix(".html")).is_file()] == []


@pytest.mark.slow
def test_every_link_inside_of_the_site_leads_to_a_file_and_an_anchor(pages):
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[target].ids if target in pages else {unquote(parts.fragment)}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                wrong.append(f"{path.name}: {link}")
    assert wrong == []


@pytest.mark.slow
def test_links_to_other_servers_are_well_formed_and_load_nothing(pages):
    for path, page in pages.items():
        outside = [link for link in page.links if urlsplit(link).scheme not in ("", "data")]
        assert [link for link in outside if "." not in urlsplit(link).netloc] == [], path.name
        text = path.read_text(encoding="utf-8")
        assert 'src="http' not in text, path.name


@pytest.mark.slow
def test_tables_of_results_are_filled(site):
    text = (site / "which_selector.html").read_text(encoding="utf-8")
    assert "The site shows" not in text
    for words in ("uniform_grid", "divprune", "blind"):
        assert words in text


@pytest.mark.slow
def test_the_reference_has_every_command_and_the_front_door(site):
    import zoo_exp
    from zoo_exp.cli import COMMANDS

    commands = Page((site / "cli.html").read_text(encoding="utf-8")).ids
    assert set(COMMANDS) - commands == set()
    main = Page((site / "api" / "main.html").read_text(encoding="utf-8")).ids
    assert {f"zoo_exp.{name}" for name in zoo_exp.__all__ if name != "__version__"} - main == set()


@pytest.mark.parametrize("name", EXTENSIONS)
def test_examples_of_the_extensions(name, monkeypatch):
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    assert doctest.testmod(importlib.import_module(name)).failed == 0
    sys.modules.pop(name)
