"""A selector that is being written changes while its name stays: its answers are given again, and a line says so."""

import importlib
import sys
import types

import pytest

from zoo_exp import selectors
from zoo_exp.cli import main
from zoo_exp.config import compose, identity
from zoo_exp.errors import ZooExpError
from zoo_exp.runs import anew, folder, lock, reading, resume

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
from zoo_exp import selectors
from zoo_exp.selectors.base import ScoreSelector

@selectors.register
@dataclass(frozen=True)
class FarFromMean(ScoreSelector):
    """Distance to the mean."""
    name: ClassVar[str] = "far_from_mean"

    def score(self, tokens, generator):
        return {sign}(tokens.projected - tokens.projected.mean(dim=0)).norm(dim=1)
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the user's module with a sign and import it, as a new process would."""
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "code").mkdir()

    def again(sign, more=""):
        (tmp_path / "code" / "my_own_selector.py").write_text(SOURCE.format(sign=sign) + more)
        sys.modules.pop("my_own_selector", None)
        importlib.invalidate_caches()
        selectors.REGISTRY._added.clear()
        importlib.import_module("my_own_selector")

    yield again
    sys.modules.pop("my_own_selector", None)


@pytest.fixture
def run(tmp_path, capsys):
    """Run a small experiment; what it printed, and the responses' kept tokens by arm."""

    def once(*more, name="grow", chosen="[full,far_from_mean]"):
        command = [
            "run",
            f"selector={chosen}",
            "budget=16",
            "limit=2",
            "task=embedded_gqa",
            "logger=none",
            *more,
        ]
        command += [f"name={name}", f"out={tmp_path / 'out'}"]
        assert main(command) == 0, capsys.readouterr().err
        said = " ".join(capsys.readouterr().out.split())
        experiment = compose(command[1:])
        records = list(reading.records(experiment.run_dir))
        assert len(records) == 2 * len(experiment.arms)
        return said, experiment, {(row["selector"], row["sample_id"]): row for row in records}

    return once


def test_a_changed_selector_is_answered_again(write, run):
    write("+")
    _, first, _ = run()
    said, same, _ = run()
    assert same.run_dir == first.run_dir
    assert "4 of 4 answers are already recorded" in said
    assert "changed since" not in said
    write("-")
    said, second, _ = run()
    assert second.run_dir != first.run_dir
    assert "2 of 4 answers are already recorded" in said  # those of `full` are taken over
    assert (
        f"changed since an earlier run, so answered again: far_from_mean (answers of its earlier source: {first.id})"
        in said
    )
    write("+")
    said, third, _ = run()  # the earlier source has its answers still
    assert third.run_dir == first.run_dir
    assert "4 of 4 answers are already recorded" in said
    said, _, _ = run(chosen="[far_from_mean,random]")
    assert "taken" in said or "already recorded" in said
    assert "changed since" not in said


def test_ids_follow_the_source_of_the_users_classes_only(write, tmp_path):
    def arm(name):
        return compose([f"selector={name}", "budget=16"]).arms[0].id

    built_in = {name: arm(name) for name in ("zoo", "random", "divprune", "fastv")}
    write("+")
    before = arm("far_from_mean")
    write("+")
    assert arm("far_from_mean") == before
    write("+", more="\n# another comment\n")
    assert arm("far_from_mean") != before
    write("-")
    assert arm("far_from_mean") != before
    assert {name: arm(name) for name in built_in} == built_in


def test_ids_of_our_own_selectors_are_those_of_earlier_versions():
    """Recorded runs keep their answers: these ids were computed before the source of a class could enter."""
    ids = {name: identity.arm_id(name, {"a": 1}, None, 0, identity.source_id(type(selectors.get(name))))
           for name in ("full", "zoo", "fastv")}  # fmt: skip
    assert ids == {name: identity.arm_id(name, {"a": 1}, None, 0) for name in ids}
    assert ids["full"] == identity.digest(
        {"selector": "full", "options": {"a": 1}, "budget": None, "seed_index": 0}
    )
    assert not any(identity.source_id(selectors.REGISTRY.load(name)) for name in selectors.REGISTRY.built_in)


def notebook(value):
    """A class without a file, as a notebook or `exec` makes it."""
    module, base = types.ModuleType("cells"), selectors.REGISTRY.load("full")
    method = f"def score(self, t, g):\n        return [x + {value} for x in t]\n"
    code = f"class Mine(base):\n    width = {value}\n    {method}"
    exec(code, {"base": base, "__name__": "cells"}, vars(module))
    return module.Mine


def test_a_class_without_a_file_is_known_by_what_it_does():
    assert identity.source_id(notebook(1)) == identity.source_id(notebook(1)) != ""
    assert identity.source_id(notebook(1)) != identity.source_id(notebook(2))


def test_a_base_class_outside_the_package_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    ids = []
    for value in (1, 2):
        (tmp_path / "my_base.py").write_text(f"class Base:\n    VALUE = {value}\n")
        (tmp_path / "my_child.py").write_text("from my_base import Base\nclass Child(Base):\n    pass\n")
        for name in ("my_base", "my_child"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        ids.append(identity.source_id(importlib.import_module("my_child").Child))
    assert ids[0] != ids[1]


def test_fresh_starts_anew_and_loses_nothing(write, run):
    write("+")
    _, first, _ = run()
    before = (first.run_dir / "records.jsonl").read_bytes()
    said, again, _ = run("fresh=true")
    assert again.run_dir == first.run_dir  # `fresh` is no part of what a run is
    aside = first.run_dir.with_name(f"{first.id}.before1")
    assert f"started anew; earlier answers are kept in {aside}" in said
    assert "already recorded" not in said
    assert (aside / "records.jsonl").read_bytes() == before == (first.run_dir / "records.jsonl").read_bytes()
    assert "4 of 4 answers are already recorded" in run()[0]  # resumes what was started anew
    run("fresh=true")
    assert first.run_dir.with_name(f"{first.id}.before2").is_dir()


def test_a_fresh_run_takes_nothing_from_others_and_nobody_takes_what_was_set_aside(write, run):
    write("+")
    _, first, _ = run(chosen="[full]")
    said, second, _ = run("fresh=true", chosen="[full,random]")
    assert "already recorded" not in said
    assert anew.is_fresh(second.run_dir)
    assert not anew.is_fresh(first.run_dir)
    run("fresh=true", chosen="[full]")
    aside = first.run_dir.with_name(f"{first.id}.before1")
    assert aside.is_dir()
    assert aside not in resume._siblings(second.run_dir)


def test_starting_anew_waits_for_nobody_and_hurts_nobody(tmp_path, monkeypatch):
    run_dir = tmp_path / "name" / "0123"
    assert anew.start_anew(run_dir, ["a"]) is None
    assert [path.name for path in run_dir.iterdir()] == [folder.FRESH]
    (run_dir / "records.jsonl").write_text("{}\n")
    with lock.cells(run_dir, ["a"]), pytest.raises(ZooExpError, match="is being written by another run"):
        anew.start_anew(run_dir, ["a"])
    assert (run_dir / "records.jsonl").exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a requeued job resumes
    assert anew.start_anew(run_dir, ["a"]) is None
    assert (run_dir / "records.jsonl").exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert anew.start_anew(run_dir, ["a"]).name == "0123.before1"
    assert not (run_dir / "records.jsonl").exists()
    assert sorted(path.name for path in run_dir.parent.iterdir()) == ["0123", "0123.before1"]
