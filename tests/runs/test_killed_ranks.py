"""Two ranks, and two cells of an array, killed at seeded random points: the bytes are those of one process."""

import os
import random
import shutil
import signal
import time

import pytest
from kills import as_rank, at_merge, at_time, at_write, ended, fork, free_port, loaded_once
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.evaluation import stop
from zoo_exp.runs import cells, reading
from zoo_exp.runs import folder as run_folder

pytestmark = pytest.mark.slow

TASKS = ("embedded_pope", "embedded_gqa")
BASE = [
    "selector=[full,zoo]", "budget=16", f"task=[{','.join(TASKS)}]", "limit=4", "logger=none",
    "model.batch_size=1", "trainer=cpu",
]  # fmt: skip
DDP = ["trainer.strategy=ddp", "trainer.devices=2"]
KILLS = 20


@pytest.fixture(scope="module", autouse=True)
def one_model():
    """Load the model once, on one thread, so that ranks may be forked: imports would take most of the time."""
    with loaded_once(BASE):
        yield


def run(out, *more, tasks=None):
    experiment = compose([*BASE, f"out={out}", *more])
    return pipeline.run(experiment, Console(quiet=True), tasks), experiment.run_dir


@pytest.fixture(scope="module")
def whole(one_model, tmp_path_factory):
    """The bytes of a run that nothing disturbed."""
    code, folder = run(tmp_path_factory.mktemp("whole"))
    assert code == 0
    return (folder / "records.jsonl").read_bytes()


def answers(out):
    return {
        (row["task"], row["arm"], row["sample_id"])
        for folder in out.glob("*/*")
        for row in reading.records(folder)
    }


def until_whole(out, start, whole):
    """Kill and go on until an attempt lives to its end; how many died on the way."""
    kills, before = 0, set()
    for seed in start.seeds:
        codes = start(random.Random(seed))
        kills += codes.count(-signal.SIGKILL)
        now = answers(out)
        assert before <= now, "a record was lost"
        before = now
        if codes == [0, 0]:
            break
        assert -signal.SIGKILL in codes, (codes, (out.parent / "log").read_text()[-3000:])
    (path,) = out.glob("*/*/records.jsonl")
    assert path.read_bytes() == whole
    assert run_folder.journals(path.parent, "records") == []
    return kills


class Attempts:
    """Starts both children again and again; each attempt has a seed of its own."""

    def __init__(self, out, works):
        self.out, self.works, self.seeds = out, works, iter(range(10_000))

    def __call__(self, draw):
        """One attempt: how both ended."""
        port, victim = free_port(), draw.choice([0, 1, None])
        children = []
        for number, work in enumerate(self.works(port)):
            # Both may die; sometimes nobody does, or an attempt would never end well.
            dies = victim == number or (victim is not None and draw.random() < 0.3)
            how = draw.choices([at_write, lambda d: at_time(d, 1.0), at_merge], [6, 3, 2])[0](draw)

            def child(work=work, how=how, dies=dies):
                if dies:
                    how()
                return work()

            children.append(fork(child, self.out.parent / "log"))
        return ended(children, grace=draw.uniform(0, 1))


@pytest.mark.parametrize("kind", ["ranks", "array"])
def test_twenty_seeded_kills_change_no_byte_and_lose_no_record(kind, whole, tmp_path):
    out = tmp_path / "runs"

    def ranks(port):
        return [as_rank(rank, port, lambda: run(out, *DDP)[0]) for rank in (0, 1)]

    def array(_):
        return [lambda task=task: run(out, tasks=[task])[0] for task in TASKS]

    attempts, kills = Attempts(out, {"ranks": ranks, "array": array}[kind]), 0
    while kills < KILLS:
        shutil.rmtree(out, ignore_errors=True)
        kills += until_whole(out, attempts, whole)


@pytest.mark.parametrize("who", [[0], [0, 1]])
def test_a_signal_while_a_rank_waits_for_the_other_stops_both(who, whole, tmp_path):
    """Rank 0 has done its part and waits in the last barrier; rank 1 still works when the order to stop comes."""
    out, port, ready = tmp_path / "runs", free_port(), tmp_path / "ready"

    def slow():
        from zoo_exp.evaluation import module

        answer = module.PrunedVLM.test_step

        def step(self, *args, **kwargs):
            answer(self, *args, **kwargs)
            for _ in range(1000):  # a signal ends a sleep, and not what comes behind it
                if stop.requested():
                    return
                time.sleep(0.02)

        module.PrunedVLM.test_step = step
        return run(out, *DDP)[0]

    def waits():
        from zoo_exp.evaluation import launch, module

        meet = launch.meet

        def seen(trainer):
            ready.touch()
            meet(trainer)

        module.launch.meet = seen
        return run(out, *DDP)[0]

    children = [
        fork(as_rank(0, port, waits), tmp_path / "log"),
        fork(as_rank(1, port, slow), tmp_path / "log"),
    ]
    deadline = time.monotonic() + 600
    while not ready.exists():
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    time.sleep(0.3)
    for number in who:
        os.kill(children[number], signal.SIGUSR1)
    if who == [0]:  # it leaves alone; srun's --kill-on-bad-exit ends the other one
        _, status = os.waitpid(children[0], 0)
        codes = [os.waitstatus_to_exitcode(status)]
        os.kill(children[1], signal.SIGKILL)
        os.waitpid(children[1], 0)
    else:
        codes = ended(children)
    assert codes[0] == stop.EXIT_CODE, (tmp_path / "log").read_text()[-2000:]
    experiment = compose([*BASE, f"out={out}"])
    states = [state.state for state in cells.states(experiment.run_dir, experiment.cells())]
    assert cells.FAILED not in states
    assert run(out)[0] == 0
    assert (experiment.run_dir / "records.jsonl").read_bytes() == whole


def test_clocks_that_disagree_change_nothing(whole, tmp_path):
    """Files from the future and from the past, and a clock that jumps back between attempts."""
    out = tmp_path / "runs"

    def killed(seconds):
        def work():
            real = time.time
            time.time = lambda: real() + seconds
            at_write(random.Random(int(abs(seconds))))()
            return run(out)[0]

        return ended([fork(work, tmp_path / "log")])

    for seconds in (10**8, -(10**8), 3600):
        assert killed(seconds) == [-signal.SIGKILL]
        for place, path in enumerate(sorted(out.rglob("*"))):
            moment = 10**9 * (place % 4)
            os.utime(path, (moment, moment))
    code, folder = run(out)
    assert code == 0
    assert (folder / "records.jsonl").read_bytes() == whole
    assert not list(folder.rglob("*.tmp")) or all(p.name.startswith(".") for p in folder.rglob("*.tmp"))
