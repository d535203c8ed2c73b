"""Commands of the README are accepted, and its links exist."""

import re
import shlex
from pathlib import Path

import pytest

from zoo_exp import cli
from zoo_exp.config.sweep import points

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for line in README.splitlines()
    if line.startswith("    python -m zoo_exp ")
]
RUNS = [command[1:] for command in COMMANDS if command[0] == "run"]
QUICK = [command for command in COMMANDS if command[0] in ("list", "show")]


def test_there_are_commands():
    assert len(RUNS) >= 4
    assert QUICK


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_every_run_is_composed(words):
    overrides = [word for word in words if word != "-m"]
    assert points(overrides, (), sweep="-m" in words)


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_every_listing_prints(words, capsys):
    assert cli.main(words) == 0
    assert capsys.readouterr().out


SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_snippets():
    assert SNIPPETS


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_snippet_runs_as_it_stands(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "ASSISTANT: " in capsys.readouterr().out


def test_links_and_images_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_table_of_selectors_is_that_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import advice

    assert advice.filled(README, advice.table()) == README, "run: python benchmarks/advice.py --write"
    assert len(advice.table().splitlines()) >= 7
