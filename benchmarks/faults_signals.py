"""SIGTERM, SIGUSR1 and SIGINT to the whole process group of a run, with and without data workers, at random times.

What a run must do: end with 75, 75 and 130, keep what is recorded, and give the records of an undisturbed run when the
same command runs again. Ctrl-C in a terminal, `timeout`, `scancel` and preemption signal the group: data workers, too.
"""

import gc
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kills import ended, fork

from zoo_exp.evaluation import stop
from zoo_exp.runs import reading

CODES = {signal.SIGTERM: stop.EXIT_CODE, signal.SIGUSR1: stop.EXIT_CODE, signal.SIGINT: 130}
WORKERS = (0, 2)
KEPT = ("response", "score", "kept_tokens", "prompt_tokens")
"""Columns of a record that must be the same behind a resumed run."""


@dataclass
class Tally:
    """Episodes of one signal and one number of workers.

    Attributes:
        number: the signal.
        workers: data workers.
        episodes: how many.
        early: of these, the ones whose run had ended before the signal.
        answers: answers that were recorded when the run had ended.
        lost: of these, the ones that a resumed run has not, or has in another form.
        other: episodes whose records, timings or masks differ from those of an undisturbed run in the end.
        codes: episodes with a wrong exit code.
    """

    number: signal.Signals
    workers: int
    episodes: int = 0
    early: int = 0
    answers: int = 0
    lost: int = 0
    other: int = 0
    codes: int = 0

    def row(self) -> str:
        """A line of a Markdown table."""
        return (
            f"| {self.number.name} | {self.workers} | {self.episodes} | {self.early} | {self.answers} | {self.lost} | "
            f"{self.other} | {self.codes} |"
        )


HEADER = (
    "| signal to the group | data workers | episodes | ended before | answers recorded | lost | other records | "
    "wrong exit codes |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)


def signals(
    folder: Path,
    seed: int,
    count: int,
    run: Callable[..., int],
    left_behind: Callable[[Path], dict[str, Any]],
) -> list[Tally]:
    """`count` episodes of each signal, half of them with data workers.

    Args:
        folder: takes the runs.
        seed: of the times.
        count: episodes of each signal.
        run: a run in this process, given its folder and overrides; its exit code.
        left_behind: what a finished run has in common with others.
    """
    assert run(folder / "whole") == 0
    expected, longest = left_behind(folder / "whole"), {}
    for workers in WORKERS:
        began = time.monotonic()
        (code,) = ended(
            [fork(partial(run, folder / f"w{workers}", f"data.workers={workers}"), folder / "log")]
        )
        assert code == 0
        longest[workers] = time.monotonic() - began
    found = {(number, workers): Tally(number, workers) for number in CODES for workers in WORKERS}
    for episode in range(count):
        draw = random.Random(f"{seed}/{episode}")
        for number in CODES:
            tally, out = found[number, WORKERS[episode % 2]], folder / f"{episode}{number.name}"
            more = [f"data.workers={tally.workers}"]
            seconds = draw.uniform(0.02, 0.95) * longest[tally.workers]
            code = _signalled(partial(run, out, *more), folder / "log", number, seconds)
            before = _answers(out)
            tally.episodes += 1
            tally.early += code == 0
            tally.codes += code not in (0, CODES[number])
            tally.answers += len(before)
            assert run(out, *more) == 0
            behind = _answers(out)
            tally.lost += sum(behind.get(place) != answer for place, answer in before.items())
            tally.other += left_behind(out) != expected
            shutil.rmtree(out)
    return list(found.values())


def _signalled(work: Callable[[], int], log: Path, number: signal.Signals, seconds: float) -> int:
    """How a child ended whose group got a signal after a time."""

    def grouped() -> int:
        os.setpgid(0, 0)
        try:
            code = work()
        except KeyboardInterrupt:
            code = CODES[signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.collect()  # as an interpreter that ends: loaders end their workers, which hold the lock of the run
        for worker in multiprocessing.active_children():
            worker.join(10)
        return code

    with stop.listening():  # the child handles signals from its first moment, as the command does
        child = fork(grouped, log)
        os.setpgid(child, child)
        time.sleep(seconds)
        if not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            os.killpg(child, number)
        (code,) = ended([child])
    return code


def _answers(out: Path) -> dict[Collection[str], tuple[Any, ...]]:
    """What is recorded: by task, arm and question."""
    folders = list(out.glob("*/*"))
    if not folders:
        return {}
    rows = reading.records(folders[0])
    return {(row["task"], row["arm_id"], row["sample_id"]): tuple(row[name] for name in KEPT) for row in rows}
