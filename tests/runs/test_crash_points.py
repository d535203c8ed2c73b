"""After a kill at any point, records, masks, images and timings equal those of an undisturbed run."""

import os
import random
import shutil
import signal

import pytest
from kills import POINTS, at_point, loaded_once, watch, watched
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.evaluation import stop
from zoo_exp.runs import reading

BASE = [
    "selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_gqa]", "limit=3", "logger=none",
    "model.batch_size=2", "trainer=cpu",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_model():
    """Load the model once, on one thread, so that children may be forked."""
    with loaded_once(BASE):
        yield


def run(out, *more):
    experiment = compose([*BASE, f"out={out}", *more])
    return pipeline.run(experiment, Console(quiet=True)), experiment.run_dir


def left_behind(run_dir):
    """Everything that galleries, tables and the report are made of, and what must not be there."""
    files = [
        "records.jsonl",
        "records.csv",
        "kept.parquet",
        "masks.jsonl",
        *(f"masks/{p.name}" for p in images(run_dir)),
    ]
    timed = {(t.task, t.arm_id, sample) for t in reading.timings(run_dir) for sample in t.sample_ids}
    strange = [p for p in run_dir.rglob("*") if p.name.endswith((".tmp", ".damaged"))]
    return {name: (run_dir / name).read_bytes() for name in files} | {"timed": timed, "strange": strange}


def images(run_dir):
    return sorted((run_dir / "masks").glob("*.png"))


@pytest.fixture(scope="module")
def whole(one_model, tmp_path_factory):
    """What an undisturbed run leaves, and the operations on files that it takes."""
    operations = []
    out = tmp_path_factory.mktemp("whole")
    with watched(out, lambda *operation: operations.append(operation)):
        code, run_dir = run(out)
    assert code == 0
    return left_behind(run_dir), operations


def child(work):
    """Fork; how the child ended: its exit code, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_undisturbed_run_has_masks_images_and_a_timing_of_every_record(whole):
    expected, operations = whole
    assert len(expected["masks.jsonl"].splitlines()) == 6
    assert len([name for name in expected if name.endswith(".png")]) == 6
    records = [row for row in expected["records.jsonl"].splitlines()]
    assert len(records) == len(expected["timed"]) == 6 * 2
    assert {kind for kind, _ in operations} == set(POINTS)


def test_masks_and_timings_are_on_disk_before_their_records(whole):
    """The order of the writes of every batch; a record says that nothing of its question is missing."""
    _, operations = whole
    kinds = ("kept-", "masks-", "timings-", "records-")
    synced = [kind for name, path in operations if name == "fsync" for kind in kinds if f"/{kind}" in path]
    assert synced == list(kinds) * 4  # two batches in each of two tasks


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_a_kill_at_any_point_changes_nothing(whole, tmp_path, part):
    """Before operations of every kind and at both halves of writes; `STEP=3` takes every point of a run."""
    expected, operations = whole
    step = int(os.environ.get("STEP", "24"))
    for point in range(1 + part * step // 3, 1 + len(operations), step):
        out = tmp_path / str(point)

        def dying(out=out, point=point):
            at_point(out, point)
            return run(out)[0]

        assert child(dying) == -signal.SIGKILL, operations[point - 1]
        # The second attempt may be killed too.
        second = random.Random(point).randrange(1, 2 * len(operations))

        def again(out=out, second=second):
            at_point(out, second)
            return run(out)[0]

        assert child(again) in (0, -signal.SIGKILL)
        code, run_dir = run(out)
        assert code == 0
        found = left_behind(run_dir)
        assert found == expected, (point, second, operations[point - 1])


@pytest.mark.parametrize("point", [0.35, 0.5, 0.65])
def test_a_kill_between_masks_and_records_changes_nothing(whole, tmp_path, point):
    """Three points of the slow test above, for a quick look."""
    expected, operations = whole
    number = int(point * len(operations))

    def dying():
        at_point(tmp_path, number)
        return run(tmp_path)[0]

    assert child(dying) == -signal.SIGKILL
    code, run_dir = run(tmp_path)
    assert code == 0
    assert left_behind(run_dir) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_stop_by_signal_changes_nothing(whole, tmp_path, number, batch):
    """The signal comes while the masks of a batch are written."""
    expected, _ = whole

    def stopped():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        seen = 0

        def act(kind, path):
            nonlocal seen
            seen += kind == "write" and "/masks-" in path
            if seen == 2 * batch:
                seen += 1
                os.kill(os.getpid(), number)

        watch(tmp_path, act)
        try:
            return run(tmp_path)[0]
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
            return 130

    assert child(stopped) == (stop.EXIT_CODE if number == signal.SIGTERM else 130)
    code, run_dir = run(tmp_path)
    assert code == 0
    assert left_behind(run_dir) == expected


@pytest.mark.slow
def test_masks_are_adopted_before_the_records_of_a_sibling(whole, tmp_path):
    """A kill while records of an earlier run are taken over leaves no record without its masks."""
    expected, _ = whole
    assert run(tmp_path, "limit=2")[0] == 0
    operations = []

    def counting():
        watch(tmp_path, lambda *operation: operations.append(operation))
        run(tmp_path)
        names = [path for kind, path in operations if kind == "fsync"]
        first = min(n for n, path in enumerate(names) if "/records-" in path)
        return 100 + sum("/masks-" in path for path in names[:first])

    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "custom", copy / "custom")
    assert child(counting) == 102  # the masks of both cells
    for number in range(1, 60, 6):
        out = tmp_path / str(number)
        shutil.copytree(copy / "custom", out / "custom")

        def dying(out=out, number=number):
            at_point(out, number)
            return run(out)[0]

        child(dying)
        code, run_dir = run(out)
        assert code == 0
        found = left_behind(run_dir)
        for name in expected:
            assert name == "timed" or found[name] == expected[name], (number, name)
