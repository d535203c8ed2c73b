"""`engine.arms_per_call`: runs whose arms share calls have the records of runs whose arms do not."""

import json

import pytest
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import module
from zoo_exp.measure import earlier_times
from zoo_exp.runs import kept, reading

RUN = [
    "task=world2_gqa", "logger=none", "trainer=cpu", "budget=[16,8]", "limit=5", "model.batch_size=3",
    "selector=[full,blind,random,divprune,fastv,zoo]", "selector.seeds=1",
]  # fmt: skip


def run(out, *more):
    experiment = compose([*RUN, f"out={out}", *more])
    assert pipeline.run(experiment, Console(quiet=True)) == 0
    return experiment


def files(experiment):
    folder = experiment.run_dir
    return [(folder / name).read_bytes() for name in ("records.jsonl", "masks.jsonl", "kept.parquet")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"))


def test_records_are_equal_and_times_of_shared_calls_are_marked(alone, tmp_path):
    shared = run(tmp_path, "engine.arms_per_call=3")
    assert shared.id == alone.id
    assert files(shared) == files(alone)
    arms = {(t.arm, t.arms_in_call) for t in reading.timings(shared.run_dir)}
    together = {arm.rsplit(" @", 1)[0] for arm, count in arms if count > 1}
    assert together == {"random", "divprune", "zoo multiply"}
    times = reading.read_timings(shared.run_dir)
    lacks = times["prefill_decode_ms"].isna()
    assert set(times["arm"][lacks]) == {arm for arm, count in arms if count > 1}
    assert not reading.read_timings(alone.run_dir)["prefill_decode_ms"].isna().any()
    assert "arms_in_call" not in (alone.run_dir / "timings.jsonl").read_text()
    notes = (shared.run_dir / "results.md").read_text()
    assert "no time of the language model for random @16, divprune @16, zoo multiply @16, random @8" in notes
    known = earlier_times.seconds(tmp_path, shared.model, shared.seed)
    assert {arm.selector for arm in shared.arms if ("world2_gqa", arm.id) in known} == {
        "full",
        "blind",
        "fastv",
    }


def test_a_run_that_fails_in_a_call_resumes_alone_or_together(alone, tmp_path, monkeypatch):
    """A failure loses the arms of its call on one batch; what is written before stays."""
    together, seen = module.generate_together, []

    def failing(*given, **more):
        seen.append(1)
        if len(seen) == 3:  # the first call of the second batch
            raise InvalidValueError("no such thing")
        return together(*given, **more)

    monkeypatch.setattr(module, "generate_together", failing)
    with pytest.raises(InvalidValueError, match="no such thing"):
        run(tmp_path, "engine.arms_per_call=3")
    experiment = compose([*RUN, f"out={tmp_path}"])
    rows = list(reading.records(experiment.run_dir))
    assert len(rows) == 3 * len(experiment.arms) + 2 * 2  # and `full` and `blind` on the second batch
    assert len(kept.read(experiment.run_dir)) == len(rows)
    monkeypatch.undo()
    assert files(run(tmp_path)) == files(alone)


def test_it_is_an_option_that_changes_no_record():
    plain, many = compose(["selector=[full]"]), compose(["selector=[full]", "engine.arms_per_call=8"])
    assert [cell.id for cell in many.cells()] == [cell.id for cell in plain.cells()]
    assert json.loads(json.dumps(many.as_dict()))["engine"]["arms_per_call"] == 8
    with pytest.raises(InvalidValueError, match=r"engine\.arms_per_call"):
        compose(["selector=[full]", "engine.arms_per_call=0"])
