"""docs/your_method.md: from a file to a LaTeX row with significance and a figure, as written, with few questions."""

import re
import shlex
from pathlib import Path

import pytest

from zoo_exp import cli, selectors

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    shlex.split(line)[3:]
    for line in (DOCS / "your_method.md").read_text().splitlines()
    if line.startswith("    python -m zoo_exp ")
]


def test_there_are_at_most_four():
    assert [command[0] for command in COMMANDS] == ["check", "run", "compare", "report"]


@pytest.mark.slow
def test_every_command_works_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    code = re.findall(r"```python\n(.*?)```", (DOCS / "adding_a_selector.md").read_text(), re.DOTALL)[0]
    (tmp_path / "far_from_mean.py").write_text(code)
    few = {
        "limit=38": "limit=2",
        "budget=[32,16]": "budget=16",
        "task=world2": "task=[world2_gqa,world2_pope]",
    }
    printed = []
    for command in COMMANDS:
        assert cli.main([few.get(word, word) for word in command]) == 0, command
        printed.append(capsys.readouterr().out)
    checked, table, compared, report = printed
    assert "checks passed" in checked
    assert "far_from_mean @16" in table
    assert re.search(r"\bp\b", compared)
    (folder,) = (tmp_path / "runs" / "mine").glob("*/report")
    assert str(folder.relative_to(tmp_path)) in report.replace("\n", "")
    (tex,) = (path for path in folder.glob("*.tex"))
    assert re.search(r"far\\_from\\_mean @16 & .*\\\\", tex.read_text())
    assert list(folder.rglob("*.svg"))
    assert (folder / "index.html").is_file()
