"""Every code block and command of README.md, docs/*.md and slurm/README.md: run, or checked as far as that goes."""

import json
import subprocess
import tomllib
from collections import Counter

import pytest
import yaml
from blocks import PAGES, REASONS, ROOT, SHELL, blocks_of, small

from zoo_exp import cli, selectors, tasks
from zoo_exp._cli import run as run_command
from zoo_exp.config.sweep import points

BLOCKS = {page: blocks_of(page) for page in PAGES}
ALL = [block for page in PAGES for block in BLOCKS[page]]
LANGUAGES = (*SHELL, "python", "json", "toml", "yaml", "text", "latex")
NOT_RUN = {
    "minutes": 6,
    "GPU": 6,
    "SLURM": 5,
    "your files": 5,
    "installs": 5,
    "another test": 6,
    "fragment": 3,
    "one process per point": 2,
    "hub": 1,
    "server": 3,
    "hours": 1,
    "W&B": 1,
}
"""Blocks that are not run, by reason: a new one is a decision."""


def test_every_block_has_a_known_language_and_reason():
    assert len(ALL) > 60
    assert [block.name for block in ALL if block.language not in LANGUAGES] == []
    assert [
        f"{block.name}: {block.reason}" for block in ALL if block.reason and block.reason not in REASONS
    ] == []
    hidden = [block for block in ALL if block.language == "text" and "python -m zoo_exp" in block.text]
    assert [block.name for block in hidden] == []


def test_blocks_that_are_not_run_are_counted():
    assert Counter(block.reason for block in ALL if block.reason) == NOT_RUN


def test_every_file_and_every_program_has_its_syntax():
    for block in ALL:
        if block.language == "python":
            compile(block.text, block.name, "exec")
        elif block.language == "json":
            whole = block.text.startswith("{\n")
            assert [json.loads(text) for text in ([block.text] if whole else block.text.splitlines())]
        elif block.language == "toml":
            assert tomllib.loads(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
    script = "\n".join(block.text for block in ALL if block.language in SHELL)
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def command_lines():
    found = {}
    for block in ALL:
        for words in block.commands:
            if words[:3] == ["python", "-m", "zoo_exp"]:
                found.setdefault(tuple(words[3:]), block.name)
    return found


def test_every_command_line_is_one_and_every_experiment_is_composed():
    lines = command_lines()
    assert len(lines) > 60
    wrong = []
    for words, place in lines.items():
        if "--help" in words:
            continue
        parser, _ = cli.parsers(words)
        try:
            parsed, rest = parser.parse_known_args(words)
            sweep = bool(getattr(parsed, "multirun", False))
            given = [*getattr(parsed, "overrides", []), *rest]
            overrides = [word for word in given if not word.startswith("engine")]  # it must be installed
            if words[0] in ("run", "show", "tokens") and not any(own_file(word) for word in overrides):
                assert points(overrides, getattr(parsed, "config_dirs", ()) or (), sweep=sweep)
        except (Exception, SystemExit) as error:
            wrong.append(f"{place}: {' '.join(words)}: {error}")
    assert wrong == []


def own_file(word):
    """Whether an override names a file or configuration of the reader."""
    return any(end in word for end in (".jsonl", ".csv", ".parquet", ".py:")) or word in (
        "+exp=short",
        "model.path=ORG/NAME",
    )


def test_every_other_program_exists():
    text = (ROOT / "Makefile").read_text()
    for block in ALL:
        for words in block.commands:
            if words[0] == "make":
                assert f"\n{words[1]}:" in text, block.name
            if words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).is_file(), block.name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The reader's folder: a photograph, and registries that forget what a page adds."""
    from zoo_exp.embedded.world2.rows import rows_2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    monkeypatch.setattr(tasks.REGISTRY, "_added", {})
    monkeypatch.setattr(run_command, "_call", lambda command: cli.main(command[3:]))
    image = rows_2("gqa", limit=1)[0]["image"]
    for name in ("photo.png", "photo.jpg", "photos/car.jpg", "photos/street.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        image.convert("RGB").save(path)
    return tmp_path


RUNNING = [page for page in PAGES if any(not (block.reason or block.file) for block in BLOCKS[page])]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs_in_its_order(page, folder, capsys):
    names = {"__name__": "page"}
    for block in BLOCKS[page]:
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.reason or block.file:
            continue
        if block.language == "python":
            exec(compile(block.text, block.name, "exec"), names)
        for words in block.commands:
            assert words[:3] == ["python", "-m", "zoo_exp"], (
                f"{block.name}: {words}: mark the block as not run"
            )
            try:
                code = cli.main(small(words[3:]))
            except SystemExit as stopped:
                code = stopped.code
            said = capsys.readouterr()
            assert code in (0, None), f"{block.name}: {' '.join(words)}: {said.err}"
            assert said.out or said.err, block.name
