"""Help, listings and tables fit a terminal of 80 columns."""

import argparse

import pytest
import yaml

from zoo_exp import cli
from zoo_exp._cli import listing, show
from zoo_exp._cli.help_text import fitted
from zoo_exp.cluster import status
from zoo_exp.console import aligned, columns

WIDTH = 80


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def wide(text):
    """Lines that are too wide, except for a word that is too wide by itself."""
    lines = text.splitlines()
    return [line for line in lines if len(line) > WIDTH and " " in line.strip()]


def parsers():
    parser, commands = cli.parsers(tuple(cli.COMMANDS))
    yield "", parser
    for name, command in commands.choices.items():
        yield name, command
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {below}", inner) for below, inner in action.choices.items())


def test_help_of_every_command():
    texts = {name: parser.format_help() for name, parser in parsers()}
    assert {"run", "embedded train", "embedded samples"} <= set(texts)
    assert {name: found for name, text in texts.items() if (found := wide(text))} == {}


def test_help_keeps_every_word():
    for name, parser in parsers():
        for text in (parser.description or "", parser.epilog or ""):
            words = " ".join(fitted(text, WIDTH - 2)).replace(" \\ ", " ").split()
            assert words == text.split(), name


@pytest.mark.parametrize(
    "words",
    [
        *(["list", what] for what in listing.LISTINGS),
        *(["list", "selectors", name] for name in ("zoo", "zoo_diagonal", "dart", "sparsevlm")),
        ["paper", "audit"],
        ["check", "selector", "zoo_closed_form"],
    ],
    ids=" ".join,
)
def test_output_of_commands(words, capsys):
    assert cli.main(words) == 0
    assert wide(capsys.readouterr().out) == []


def test_the_configuration(capsys, monkeypatch):
    cell = {
        "id": "08c52af74fcb",
        "task": "world2_tiles_mmbench",
        "arms": 41,
        "questions": 400,
        "hours": 0.034,
    }
    monkeypatch.setattr(
        show, "_cells", lambda experiment: ([{**cell, "memory_gib": 1.5}] * 2, "estimates " * 20)
    )
    assert cli.main(["show", "exp=ablation_fusion", "model=embedded_next"]) == 0
    text = capsys.readouterr().out
    assert wide(text) == []
    assert len(yaml.safe_load(text)["cells"]) == 2


def test_a_path_that_does_not_fit_stands_below_in_one_piece():
    path = "runs/a_name_that_is_long_enough_for_two_lines/0a1b2c3d4e5f"
    rows = [("date", "answers", "run"), ("2026-01-02 03:04", "900/900", path)]
    assert aligned(rows, 64)[-2:] == ["2026-01-02 03:04  900/900", f"    {path}"]
    assert aligned(rows, 100)[-1] == f"2026-01-02 03:04  900/900  {path}"


def test_status_of_an_array(monkeypatch):
    rows = [status.Row(3, "mmbench_en_dev_static", "failed", "12/4329", "RuntimeError: no space left " * 5)]
    assert wide(status.table(rows)) == []
    monkeypatch.delenv("COLUMNS")
    assert len(status.table(rows).splitlines()) == 2


def test_a_program_reads_whole_lines(monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert columns() > 1000
