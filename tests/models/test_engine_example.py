"""The example of the documentation runs and has the stated length."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "pruned_generate.py"


def test_the_example_answers_at_every_budget(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    seen = {(line.split()[0], line.split("[")[1].split("]")[0]) for line in lines[1:]}
    assert seen == {
        (name, ", ".join(map(str, layers)))
        for name, layers in (
            ("full", [144] * 8),
            ("zoo", [48] * 8),
            ("zoo", [16] * 8),
            ("fastv", [144] * 2 + [16] * 6),
            ("blind", [0] * 8),
        )
    }


def test_the_example_is_twenty_lines():
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 20


@pytest.mark.parametrize("page", ["engine.md", "engine.svg"])
def test_the_page_names_what_exists(page):
    text = (EXAMPLE.parents[1] / page).read_text()
    assert "get_image_features" in text
