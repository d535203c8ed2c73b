"""A killed, stopped or split run is resumed and ends with the same bytes."""

import json
import os
import random
import shutil
import signal

import pytest
from kills import at_merge, at_time, at_write, loaded_once
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, UnknownNameError, ZooExpError
from zoo_exp.evaluation import attempt, stop
from zoo_exp.runs import cells, folder, journal, lock, reading

BASE = [
    "selector=[full,zoo,random]", "budget=16", "task=[embedded_pope,embedded_gqa]", "limit=8", "logger=none",
    "model.batch_size=2", "trainer=cpu",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_model():
    """Load the model once for all runs of this module, on one thread, so that children may be forked."""
    with loaded_once(BASE):
        yield


def run(out, *more, tasks=None):
    experiment = compose([*BASE, f"out={out}", *more])
    code = pipeline.run(experiment, Console(quiet=True), tasks)
    return code, experiment.run_dir


@pytest.fixture(scope="module")
def whole(one_model, tmp_path_factory):
    """The bytes of a run that nothing disturbed."""
    code, run_dir = run(tmp_path_factory.mktemp("whole"))
    assert code == 0
    return (run_dir / "records.jsonl").read_bytes()


def answers(run_dir):
    return {(r["task"], r["arm"], r["sample_id"]) for r in reading.records(run_dir)}


@pytest.mark.parametrize("batch_size", [1, 32])
def test_records_do_not_depend_on_the_batch_size(whole, tmp_path, batch_size):
    _, run_dir = run(tmp_path, f"model.batch_size={batch_size}")
    assert (run_dir / "records.jsonl").read_bytes() == whole


def test_cells_run_one_by_one_end_in_the_same_folder_with_the_same_bytes(whole, tmp_path):
    _, run_dir = run(tmp_path, tasks=["embedded_gqa"])
    assert not (run_dir / "records.jsonl").exists()
    assert len(folder.journals(run_dir, "records")) == 1
    _, again = run(tmp_path, tasks=["embedded_pope"])
    assert again == run_dir
    assert (run_dir / "records.jsonl").read_bytes() == whole
    assert folder.journals(run_dir, "records") == []
    with pytest.raises(UnknownNameError, match="embedded_pop'"):
        run(tmp_path, tasks=["embedded_pop"])


def test_no_question_is_answered_twice(whole, tmp_path, monkeypatch):
    _, run_dir = run(tmp_path)
    monkeypatch.setattr(attempt, "_load", None)  # a finished run needs no model
    assert run(tmp_path) == (0, run_dir)
    assert (run_dir / "records.jsonl").read_bytes() == whole


def test_only_lost_records_are_recomputed(whole, tmp_path):
    _, run_dir = run(tmp_path)
    lines = whole.splitlines(keepends=True)
    gone = random.Random(0).sample(range(len(lines)), 5)
    kept = [b"garbage\n" if n == gone[0] else line for n, line in enumerate(lines) if n not in gone[1:]]
    (run_dir / "records.jsonl").write_bytes(b"".join(kept))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        append = journal.Journal.append

        def note(self, rows):
            rows = list(rows)
            seen.extend(row for row in rows if "response" in row)
            append(self, rows)

        patch.setattr(journal.Journal, "append", note)
        run(tmp_path)
    assert len(seen) == 5
    assert (run_dir / "records.jsonl").read_bytes() == whole


def test_another_limit_and_another_arm_reuse_existing_records(whole, tmp_path):
    run(tmp_path, "limit=3", "selector=[full,zoo]")
    _, run_dir = run(tmp_path)
    assert (run_dir / "records.jsonl").read_bytes() == whole


def test_a_signal_stops_between_two_arms_and_the_next_run_resumes(whole, tmp_path, monkeypatch):
    answer, calls = attempt.PrunedVLM._generate, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(self, *args)

    monkeypatch.setattr(attempt.PrunedVLM, "_generate", interrupted)
    code, run_dir = run(tmp_path)
    assert code == stop.EXIT_CODE
    assert len(calls) == 5  # the arm in hand was the last one
    assert len(answers(run_dir)) == 10
    assert {s.state for s in cells.states(run_dir, compose(BASE).cells())} == {cells.STOPPED}
    assert run(tmp_path)[0] == 0
    assert (run_dir / "records.jsonl").read_bytes() == whole


def test_an_error_is_written_down_beside_its_cell_and_what_was_recorded_is_merged(tmp_path, monkeypatch):
    def broken(self, doc, response):
        raise InvalidValueError("no such answer")

    from zoo_exp.tasks import get

    monkeypatch.setattr(type(get("embedded_gqa")), "score", broken)
    with pytest.raises(InvalidValueError, match="no such answer"):
        run(tmp_path)
    experiment = compose([*BASE, f"out={tmp_path}"])
    states = {s.cell.task: s for s in cells.states(experiment.run_dir, experiment.cells())}
    assert states["embedded_pope"].state == cells.DONE
    assert states["embedded_gqa"].state == cells.FAILED
    assert states["embedded_gqa"].note == "no such answer"
    assert (
        len((experiment.run_dir / "records.jsonl").read_bytes().splitlines())
        == states["embedded_pope"].answers
    )


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    experiment = compose([*BASE, f"out={tmp_path}"])
    with (
        lock.cells(experiment.run_dir, [experiment.cells()[1].id]),
        pytest.raises(ZooExpError, match=f"written by another run .process {os.getpid()}"),
    ):
        run(tmp_path)


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    _, run_dir = run(tmp_path)
    content = json.loads((run_dir / "experiment.json").read_text())
    content["experiment"]["model"]["dtype"] = "float16"
    (run_dir / "experiment.json").write_text(json.dumps(content))
    before = (run_dir / "records.jsonl").read_bytes()
    with pytest.raises(InvalidValueError, match=r'model\.dtype: "float16" -> "float32"'):
        run(tmp_path)
    assert (run_dir / "records.jsonl").read_bytes() == before


SMALL = ["selector=[full,zoo]", "limit=4", "model.batch_size=1"]


def killed_child(out, prepare):
    """Run in a forked process that `prepare` has set up to be killed; True if it lived to the end."""
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os._exit(run(out, *SMALL)[0])
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


@pytest.mark.slow
def test_twenty_seeded_kills_change_no_byte_and_lose_no_record(tmp_path):
    _, run_dir = run(tmp_path / "whole", *SMALL)
    whole = (run_dir / "records.jsonl").read_bytes()
    kills, seed = 0, 0
    while kills < 20:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        before: set = set()
        finished = False
        while not finished:
            draw = random.Random(seed)
            seed += 1
            how = draw.choices([at_write, at_time, at_merge], [6, 3, 2])[0]
            finished = killed_child(tmp_path / "runs", how(draw))
            kills += not finished
            folders = list((tmp_path / "runs").glob("*/*"))
            now = answers(folders[0]) if folders else set()
            assert before <= now, "a record was lost"
            before = now
        assert (folders[0] / "records.jsonl").read_bytes() == whole
        rows = [json.loads(line) for line in (folders[0] / "timings.jsonl").read_text().splitlines()]
        assert {row["arm"] for row in rows} == {json.loads(line)["arm"] for line in whole.splitlines()}
