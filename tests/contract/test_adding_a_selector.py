"""The example of docs/adding_a_selector.md runs and has the stated length."""

import re
from pathlib import Path

from zoo_exp import selectors

DOCS = Path(__file__).parents[2] / "docs" / "adding_a_selector.md"


def test_the_worked_example_runs(monkeypatch):
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 25
    names = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, DOCS.name, "exec"), names)
    assert "far_from_mean" in selectors.available()


def test_every_need_is_documented():
    text = DOCS.read_text(encoding="utf-8")
    for info in selectors.describe():
        for need in info.needs:
            assert f"`{need}`" in text, (info.name, need)
