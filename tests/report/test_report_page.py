"""The report as a whole: all files, no network, escaped text, reproducible."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_run import write_jsonl
from PIL import Image

from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError
from zoo_exp.report.build import build
from zoo_exp.report.html_page import LIMIT, page_file, render_page
from zoo_exp.report.page_galleries import bits, script_json
from zoo_exp.report.renderers import html
from zoo_exp.report.section import make_section
from zoo_exp.report.tabular import Cell, Column
from zoo_exp.report.tabular import build as build_table
from zoo_exp.runs.load import load_run

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> $x_1$ \\n"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Elements(HTMLParser):
    """Every element with its attributes, as a browser would see it."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Remember the element."""
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def hostile_run(make_whole_run):
    """A run whose questions, answers, experiment and arms are attacks."""
    run = make_whole_run(tokens=True)
    for name in ("records.jsonl", "masks.jsonl", "tokens.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        for row in rows:
            if "question" in row:
                row["question"] = row["reference"] = HOSTILE
            for place in [row, *row.get("arms", [])]:
                place["response"] = HOSTILE
                place["arm"] = place.get("arm", "x").replace("zoo none", f"zoo {HOSTILE}")
        write_jsonl(run / name, rows)
    content = json.loads((run / "experiment.json").read_text())
    content["experiment"]["name"] = content["experiment"]["question"] = HOSTILE
    for arm in content["experiment"]["arms"]:
        arm["arm"] = arm["arm"].replace("zoo none", f"zoo {HOSTILE}")
    (run / "experiment.json").write_text(json.dumps(content))
    return run


def test_writes_page_markdown_latex_csv_and_figures(make_whole_run, tmp_path, capsys):
    run = make_whole_run(tokens=True)
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    assert str(tmp_path / "out" / "index.html") in capsys.readouterr().out
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    kinds = (".svg", ".png", "_narrow.svg")
    figures = {f"figures/made_up_{name}{kind}" for name in ("ranks", "span") for kind in kinds}
    figures |= {f"tables/made_up_{name}.csv" for name in ("results", "paired", "contribution", "tokens")}
    assert {"index.html", "report.md", "made_up.csv", "made_up.tex"} | figures <= names
    assert r"\begin{tabular}" in (tmp_path / "out" / "made_up.tex").read_text()
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "## made\\_up" in markdown
    assert "(figures/made_up_span.svg)" in markdown


def test_a_single_run_keeps_its_report_in_its_folder(make_whole_run):
    run = make_whole_run()
    assert build([run], draws=50) == run / "report" / "index.html"


def test_the_page_needs_no_network_and_allows_no_other_script(make_whole_run):
    text = build([make_whole_run(tokens=True)], draws=50).read_text()
    elements = Elements(text).found
    links = [v for _, attrs in elements for k, v in attrs.items() if k in ("src", "href") and v]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "/somewhere/secret" not in text
    (policy,) = [a["content"] for t, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page_file("page.js").encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    scripts = [a for t, a in elements if t == "script"]
    assert [a.get("type") for a in scripts].count(None) == 1
    assert len(text) < 10_000_000


def test_hostile_text_stays_text(hostile_run, tmp_path):
    page = build([hostile_run], tmp_path / "out", draws=50)
    elements = Elements(page.read_text()).found
    assert not [attrs for _, attrs in elements for name in attrs if name.startswith("on")]
    assert all((attrs.get("src") or "").startswith("data:") for tag, attrs in elements if tag == "img")
    assert sum(tag == "script" and "type" not in attrs for tag, attrs in elements) == 1
    assert all(
        path.parent in (page.parent, page.parent / "figures", page.parent / "tables")
        for path in page.parent.rglob("*.*")
    )
    assert not re.search(r"(?<!\\)<img", (page.parent / "report.md").read_text())


def test_the_same_records_give_the_same_report(make_whole_run, tmp_path):
    run = make_whole_run(tokens=True)
    pages = [build([run], tmp_path / name, draws=50) for name in ("one", "two")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_runs_that_differ_are_marked_on_the_page(make_whole_run, tmp_path):
    runs = [make_whole_run("one"), make_whole_run("two", attention="eager")]
    with pytest.raises(InvalidValueError, match=r"model\.attention"):
        build(runs, tmp_path / "out")
    text = build(runs, tmp_path / "out", mixed=True, draws=50).read_text()
    assert re.search(r'<p class="warn">[^<]*model\.attention is sdpa and eager', text)
    assert 'id="one"' in text
    assert 'id="two"' in text


def test_two_runs_of_one_experiment_have_sections_of_their_own(make_whole_run, tmp_path):
    runs = [make_whole_run("one", run_id="a"), make_whole_run("one", run_id="b")]
    text = build(runs, tmp_path / "out", draws=50).read_text()
    ids = [attrs["id"] for tag, attrs in Elements(text).found if tag == "section"]
    assert len(set(ids) - {"overview"}) == 2


def test_the_command_exits_with_2_where_there_is_no_run(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "contains no run with records" in capsys.readouterr().err


def test_a_table_marks_best_and_published_cells_and_sorts_by_values():
    lines = [{"arm": "<a>", "x": Cell("1.5", 1.5, bold=True)}, {"arm": "b", "x": Cell("-", published=True)}]
    columns = [Column("arm", lambda line: line["arm"], left=True), Column("x", lambda line: line["x"])]
    text = html(build_table("t", "Title & more", columns, lines, caption="<caption>"))
    assert "&lt;a&gt;" in text
    assert '<td class="best" data-v="1.5">1.5</td>' in text
    assert '<td class="published">-</td>' in text
    assert "Title &amp; more" in text
    assert '<p class="caption">&lt;caption&gt;</p>' in text


def test_captions_are_outside_of_what_scrolls():
    """Inside of it, a phone would cut them off."""
    text = html(
        build_table("t", "T", [Column("arm", lambda line: "x")], [{}], caption="told", notes=["noted"])
    )
    scrolling = text[text.index('<div class="scroll"') : text.index("</table></div>")]
    assert "told" not in scrolling
    assert "noted" not in scrolling


def test_json_in_the_page_cannot_end_its_element():
    assert "<" not in script_json({"x": HOSTILE})
    assert json.loads(script_json({"x": HOSTILE})) == {"x": HOSTILE}


def test_a_page_that_would_be_too_large_omits_images_with_a_note(make_whole_run, tmp_path):
    run = make_whole_run(tokens=True)
    noise = np.random.default_rng(0)
    for path in (run / "images").glob("*.png"):
        Image.fromarray(noise.integers(0, 255, (900, 900, 3)).astype(np.uint8)).save(path)
    (section,) = [make_section(load_run(run), "made_up", tmp_path / "figures", 50)]
    whole = render_page("title", [section])
    assert "To stay below" not in whole
    assert len(whole) < LIMIT
    sizes, kinds = [], []
    limits = (len(whole) - 1, len(whole) // 2, len(whole) // 4, 60_000)
    for limit in limits:
        text = render_page("title", [section], limit=limit)
        assert "To stay below" in text
        assert ">Paired differences</h3>" in text
        sizes.append(len(text))
        kinds.append((text.count("data:image/jpeg"), text.count('<img class="figure"')))
    assert sizes == sorted(sizes, reverse=True)
    assert all(size <= limit for size, limit in zip(sizes[:3], limits[:3], strict=True))
    assert kinds[0][0] > 0
    assert kinds[-1] == (0, 0)


def test_an_image_is_in_the_page_once(make_whole_run, tmp_path):
    runs = [make_whole_run("one"), make_whole_run("two")]
    one, both = (build(part, tmp_path / str(len(part)), draws=50).read_text() for part in (runs[:1], runs))
    assert both.count("data:image/png") == one.count("data:image/png") == 3
    assert both.count('class="gallery"') > one.count('class="gallery"')


def test_kept_tokens_can_be_read_back_from_their_bits():
    kept = [0, 7, 8, 143, 575]
    data = base64.b64decode(bits(kept))
    assert [i for i in range(8 * len(data)) if data[i >> 3] >> (i & 7) & 1] == kept


def test_several_experiments_begin_with_a_row_each(make_whole_run, tmp_path):
    text = build([make_whole_run("one"), make_whole_run("two")], tmp_path / "out", draws=50).read_text()
    overview = text[text.index('id="overview"') : text.index('id="one"')]
    assert overview[: overview.index("</table>")].count("<tr>") == 3
    assert '<a href="#two">two</a>' in overview
    assert "zoo multiply @16" in overview
    assert 'id="overview"' not in build([make_whole_run("three")], draws=50).read_text()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser(hostile_run, tmp_path):
    """The script runs to its end without a message, draws the gallery, and no attack gets through."""
    page = build([hostile_run], tmp_path / "out", draws=50)
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert "CONSOLE" not in done.stderr
    elements = Elements(done.stdout).found
    assert ("html", "yes") in [(tag, attrs.get("data-ready")) for tag, attrs in elements]
    assert "<title>taken" not in done.stdout
    assert sum(tag == "canvas" for tag, _ in elements) > 5
    galleries = done.stdout.split('<div class="gallery">')[1:]
    assert len(galleries) > 1
    assert all("<canvas" in gallery for gallery in galleries)  # each is drawn, in view or not
    assert any(tag == "input" and attrs.get("type") == "range" for tag, attrs in elements)
