"""The state of a cell from its records, its lock and its state file."""

import pytest

from zoo_exp.config import compose
from zoo_exp.runs import cells, lock
from zoo_exp.runs.journal import Journal

EXPERIMENT = compose(["selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_gqa]", "limit=4"])
POPE, GQA = EXPERIMENT.cells()


def answer(folder, cell, samples, arms=None):
    rows = [
        {"cell": cell.id, "task": cell.task, "arm_id": arm.id, "arm": arm.label, "sample_id": str(n)}
        | {"response": "", "score": 0.0, "kept_tokens": 0}
        for arm in (arms or cell.arms)
        for n in range(samples)
    ]
    with Journal(folder, "records", cell.id) as file:
        file.append(rows)


def state(folder, cell=POPE):
    return next(s for s in cells.states(folder, EXPERIMENT.cells()) if s.cell == cell)


def test_an_empty_folder_has_missing_cells(tmp_path):
    assert [(s.state, s.answers, s.expected) for s in cells.states(tmp_path, EXPERIMENT.cells())] == [
        (cells.MISSING, 0, None)
    ] * 2


def test_records_decide_what_is_done(tmp_path):
    cells.note(tmp_path, POPE, cells.RUNNING, samples=4)
    answer(tmp_path, POPE, 4)
    assert state(tmp_path).complete
    assert (state(tmp_path).state, state(tmp_path).answers) == (cells.DONE, 8)
    assert state(tmp_path, GQA).state == cells.MISSING


def test_a_done_state_without_records_is_ignored(tmp_path):
    cells.note(tmp_path, POPE, cells.DONE, samples=4)
    answer(tmp_path, POPE, 4, arms=POPE.arms[:1])
    assert (state(tmp_path).state, state(tmp_path).answers, state(tmp_path).expected) == (cells.MISSING, 4, 8)


def test_a_cell_of_a_killed_process_has_failed(tmp_path):
    cells.note(tmp_path, POPE, cells.RUNNING, samples=4)
    with lock.cells(tmp_path, [POPE.id]):
        assert state(tmp_path).state == cells.RUNNING
        assert "process" in state(tmp_path).note
    assert state(tmp_path).state == cells.FAILED
    assert "killed" in state(tmp_path).note


@pytest.mark.parametrize("name", [cells.FAILED, cells.STOPPED])
def test_how_an_attempt_ended_is_kept_with_what_is_known(tmp_path, name):
    cells.note(tmp_path, POPE, cells.RUNNING, samples=4)
    cells.note(tmp_path, POPE, name, error="no memory")
    assert (state(tmp_path).state, state(tmp_path).note, state(tmp_path).expected) == (name, "no memory", 8)


def test_the_state_of_another_cell_of_the_same_task_is_ignored(tmp_path):
    other = compose(["selector=[full,zoo]", "budget=16", "task=embedded_pope", "seed=1"]).cells()[0]
    cells.note(tmp_path, other, cells.FAILED, samples=4, error="old")
    assert state(tmp_path).state == cells.MISSING
    cells.note(tmp_path, POPE, cells.RUNNING)
    assert state(tmp_path).expected is None


def test_a_damaged_state_file_is_ignored(tmp_path):
    cells.note(tmp_path, POPE, cells.FAILED, samples=4)
    (tmp_path / "cells" / "embedded_pope.json").write_text("{")
    assert state(tmp_path).state == cells.MISSING
