"""Kills at every write, kills and signals at random times, bad input: the tables of docs/reliability.md.

    python benchmarks/faults.py                         # everything: about 8 minutes on two cores
    python benchmarks/faults.py --part input --step 10  # every tenth bad input

Everything runs in forked children of one process that has loaded its libraries and the embedded model, so that a fault
costs its own time and no imports. Whatever is random is drawn from `--seed`. What counts as different is the content of
records.jsonl, records.csv, kept.parquet, masks.jsonl and the mask images, and which answers have a timing.
"""

import argparse
import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "runs"), str(ROOT / "benchmarks")]

import faults_folders  # noqa: E402
import faults_input as bad  # noqa: E402
import faults_signals  # noqa: E402
from faults_input import Case  # noqa: E402
from kills import as_rank, at_merge, at_point, at_time, at_write, ended, fork, free_port, loaded_once, watched  # noqa: E402
from rich.console import Console  # noqa: E402

from zoo_exp import cli, pipeline  # noqa: E402
from zoo_exp.config import compose  # noqa: E402
from zoo_exp.embedded.shipped import shipped_folder  # noqa: E402
from zoo_exp.evaluation import stop  # noqa: E402
from zoo_exp.runs import reading  # noqa: E402

TWO_TASKS = [
    "selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_gqa]", "limit=2", "logger=none",
    "model.batch_size=1", "trainer=cpu",
]  # fmt: skip
DDP = ["trainer.strategy=ddp", "trainer.devices=2"]
LONGEST = 10.0
"""Seconds that a bad input may take."""


def run(out: Path, *more: str) -> int:
    """A run of two tasks in this process; its exit code."""
    try:
        return pipeline.run(compose([*TWO_TASKS, f"out={out}", *more]), Console(quiet=True))
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        return 130


def left_behind(out: Path) -> dict[str, Any]:
    """What a finished run has in common with every other run of the same configuration."""
    (folder,) = out.glob("*/*")
    files = [
        "records.jsonl",
        "records.csv",
        "masks.jsonl",
        "kept.parquet",
        *sorted(f"masks/{p.name}" for p in (folder / "masks").iterdir()),
    ]
    timed = {(t.task, t.arm_id, sample) for t in reading.timings(folder) for sample in t.sample_ids}
    strange = sorted(p.name for p in folder.rglob("*") if p.name.endswith((".tmp", ".damaged")))
    return {name: (folder / name).read_bytes() for name in files} | {"timed": timed, "strange": strange}


def different(found: dict[str, Any], expected: dict[str, Any], *names: str) -> bool:
    """Whether two runs differ in files whose names begin with one of `names`."""
    keys = {key for key in (*found, *expected) if key.startswith(names)}
    return any(found.get(key) != expected.get(key) for key in keys)


@dataclass
class Tally:
    """Episodes of one kind, and how many ended with other records, other masks, or a wrong exit code."""

    kind: str
    episodes: int = 0
    kills: int = 0
    records: int = 0
    masks: int = 0
    codes: int = 0

    def add(self, kills: int, wrong: int, out: Path, expected: dict[str, Any]) -> None:
        """Count an episode that a last run has completed."""
        found = left_behind(out)
        self.episodes, self.kills, self.codes = self.episodes + 1, self.kills + kills, self.codes + wrong
        self.records += different(found, expected, "records", "timed", "strange")
        self.masks += different(found, expected, "masks", "kept")

    def row(self) -> str:
        """A line of a Markdown table."""
        return (
            f"| {self.kind} | {self.episodes} | {self.kills} | {self.records} | {self.masks} | {self.codes} |"
        )


def crash_points(folder: Path, step: int) -> Tally:
    """Kill before every n-th operation on files, and between the halves of writes; then run again."""
    operations: list[tuple[str, str]] = []
    with watched(folder / "whole", lambda *operation: operations.append(operation)):
        assert run(folder / "whole") == 0
    expected = left_behind(folder / "whole")
    tally = Tally(f"crash points: every {step}. of {len(operations)} operations")
    for point in range(1, 1 + len(operations), step):
        out = folder / f"p{point}"

        def dying(out: Path = out, point: int = point) -> int:
            at_point(out, point)
            return run(out)

        (code,) = ended([fork(dying, folder / "log")])
        assert run(out) == 0
        tally.add(1, code != -signal.SIGKILL, out, expected)
        shutil.rmtree(out)
    return tally


def episodes(folder: Path, seed: int, count: int) -> list[Tally]:
    """Kills and signals in one process and in one or both of two ranks, until an attempt ends by itself."""
    assert run(folder / "whole") == 0
    expected = left_behind(folder / "whole")
    one, stormed, two = (
        Tally("kills of one process"),
        Tally("signals to one process"),
        Tally("kills and signals, two ranks"),
    )
    for number in range(count):
        draw, out = random.Random(f"{seed}/{number}"), folder / f"e{number}"
        kind = (one, stormed, one, stormed, two)[number % 5]
        kills = wrong = 0
        for _ in range(3):
            codes, allowed = _attempt(kind is two, kind is stormed, out, draw, folder / "log")
            kills += sum(code != 0 for code in codes)
            wrong += any(code not in allowed for code in codes)
            if not any(codes):
                break
        if any(codes):
            assert run(out) == 0
        kind.add(kills, wrong, out, expected)
        shutil.rmtree(out)
    return [one, stormed, two]


def _attempt(
    two: bool, signals: bool, out: Path, draw: random.Random, log: Path
) -> tuple[list[int], set[int]]:
    """One attempt that may die: how its processes ended, and how they may."""
    if two:
        port, victim = free_port(), draw.choice([0, 1])
        kill = draw.choice([at_write, at_time])(draw)

        def rank(number: int) -> int:
            def work() -> int:
                if number == victim:
                    kill()
                return as_rank(number, port, lambda: run(out, *DDP))()

            return fork(work, log)

        return ended([rank(0), rank(1)]), {0, 1, stop.EXIT_CODE, -signal.SIGKILL}
    if not signals:
        how = draw.choice([at_write, at_merge, at_time])(draw)

        def dying() -> int:
            how()
            return run(out)

        return ended([fork(dying, log)]), {0, -signal.SIGKILL}
    plan = [(draw.uniform(0, 0.4), draw.choice(stop.SIGNALS)) for _ in range(draw.randint(1, 20))]

    def stormed() -> int:
        code = run(out)
        stop.ignore()
        time.sleep(0.3)  # as an interpreter that ends
        return code

    with stop.listening():  # the child handles signals from its first moment, as the command does
        child = fork(stormed, log)
    for seconds, number in plan:
        time.sleep(seconds)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        os.kill(child, number)
    return ended([child]), {0, stop.EXIT_CODE, -signal.SIGTERM, -signal.SIGUSR1} if not plan else {
        0,
        stop.EXIT_CODE,
    }


@dataclass(frozen=True)
class Outcome:
    """How a bad input ended: exit code (minus the signal), seconds, what it printed, what it left beside `out`."""

    case: Case
    code: int
    seconds: float
    printed: str
    outside: list[str]

    @property
    def faults(self) -> list[str]:
        """What is wrong about it."""
        errors = [line for line in self.printed.splitlines() if line.startswith("error:")]
        usage = "usage:" in self.printed
        return [
            name
            for name, wrong in {
                "traceback": "Traceback (most recent call last)" in self.printed,
                "exit code": self.code not in self.case.codes,
                "message": self.code == 2 and not usage and len(errors) != 1,
                "slow": self.seconds > LONGEST,
                "outside": bool(self.outside),
            }.items()
            if wrong
        ]


def attempt(case: Case, folder: Path) -> Outcome:
    """Run one bad input in a child, in a folder of its own."""
    place, here = folder / "case", folder / "here"
    for path in (place, here):
        path.mkdir()
    case.prepare(place)
    arguments = case.arguments(place)
    log = folder / "printed"
    log.unlink(missing_ok=True)

    def work() -> int:
        os.chdir(here)
        os.environ["HF_HUB_OFFLINE"] = "1"
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = (
            os.fdopen(fd, "w", buffering=1, closefd=False, errors="replace") for fd in (1, 2)
        )
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(6 * int(LONGEST))
        try:
            return cli.main(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1

    started = time.perf_counter()
    (code,) = ended([fork(work, log)])
    seconds = time.perf_counter() - started
    known = {"exp", "data", "out", "model", "p.jsonl"}
    outside = [str(path) for path in here.iterdir()] + [
        path.name for path in place.iterdir() if path.name not in known
    ]
    printed = log.read_text(errors="replace")
    shutil.rmtree(place)
    shutil.rmtree(here)
    return Outcome(case, code, seconds, printed, outside)


def cases(folder: Path, seed: int) -> list[Case]:
    """All bad inputs."""
    finished = folder / "finished"
    assert pipeline.run(compose([*bad.RUN[1:], f"out={finished}"]), Console(quiet=True)) == 0
    kinds = (
        bad.command_lines(), bad.mutated_lines(seed), bad.experiment_files(), bad.images(), bad.tables(seed),
        bad.predictions(), faults_folders.run_folders(finished), faults_folders.checkpoints(shipped_folder("embedded")),
    )  # fmt: skip
    return list(itertools.chain(*kinds))


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=int, default=1, help="every n-th crash point and bad input")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--signals", type=int, default=30, help="episodes of each signal to the group")
    parser.add_argument("--part", choices=("points", "episodes", "signals", "input", "all"), default="all")
    args = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, loaded_once([*TWO_TASKS]):
        folder = Path(name).resolve()
        parts: list[tuple[str, Callable[[], list[Tally]]]] = [
            ("points", lambda: [crash_points(_new(folder / "points"), args.step)]),
            ("episodes", lambda: episodes(_new(folder / "episodes"), args.seed, args.episodes)),
        ]
        for part, work in parts:
            if args.part in (part, "all"):
                print(
                    "\n| kind | episodes | kills and stops | other records | other masks | wrong exit codes |"
                )
                print("|---|--:|--:|--:|--:|--:|")
                for tally in work():
                    print(tally.row(), flush=True)
        if args.part in ("signals", "all"):
            print(f"\n{faults_signals.HEADER}")
            place = _new(folder / "signals")
            for one in faults_signals.signals(place, args.seed, args.signals, run, left_behind):
                print(one.row(), flush=True)
    if args.part in ("input", "all"):
        with tempfile.TemporaryDirectory() as name:
            inputs(Path(name).resolve(), args.seed, args.step)
    print(f"\n{time.perf_counter() - started:.0f} s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def inputs(folder: Path, seed: int, step: int) -> list[Outcome]:
    """Run the bad inputs and print their table; all outcomes."""
    import torch

    torch.set_num_threads(1)
    found = [attempt(case, folder) for case in cases(folder, seed)[::step]]
    names = ("traceback", "exit code", "message", "slow", "outside")
    print(
        "\n| bad input | n | " + " | ".join(names) + " | longest (s) |\n|---|--:|" + "--:|" * (len(names) + 1)
    )
    kinds = dict.fromkeys(outcome.case.kind for outcome in found)
    for kind in (*kinds, "all"):
        mine = [outcome for outcome in found if kind in (outcome.case.kind, "all")]
        counts = [sum(name in outcome.faults for outcome in mine) for name in names]
        longest = max(outcome.seconds for outcome in mine)
        print(f"| {kind} | {len(mine)} | {' | '.join(map(str, counts))} | {longest:.1f} |", flush=True)
    for outcome in found:
        if outcome.faults:
            last = outcome.printed.strip().splitlines()[-1:] or [""]
            print(
                f"{outcome.case.kind}: {outcome.case.name}: {outcome.faults} {outcome.code}: {last[0][:200]}"
            )
    return found


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
