"""Two ranks compared with one on the same questions: throughput, and equality of the records.

    python benchmarks/ddp.py                    # embedded model, four tasks, one thread for each rank
    python benchmarks/ddp.py --limit 40 --repeats 1

Every rank has one thread, so that one rank uses one core and two use two. All runs are separate processes, alternating
and repeated. The time is measured from the moment when all ranks are ready until all rows are on disk, without imports,
loading and tables, which are independent of the number of ranks; the time of the whole command is shown as well.

By default, one rank has two full batches for each task: with fewer questions, two ranks would run half-empty batches,
which cost more than half of a full one.

Two columns describe the load of the machine. `apart`: the same number of independent one-rank runs in parallel, an
upper bound for this machine. `share`: CPU share of the busiest rank; below 0.9, other processes were running and the
speed-up is not reliable. `by CPU time` divides the CPU seconds of one rank by those of the busiest of several; it is
also valid on a machine with other load.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

OVERRIDES = [
    "+exp=ablation_fusion", "task=[embedded_gqa,embedded_pope,embedded_mme,embedded_seedbench]", "budget=16",
    "logger=none", "trainer=cpu",
]  # fmt: skip
MARKS = """
import time, zoo_exp.evaluation.module as m
start, end = m.PrunedVLM.on_test_start, m.PrunedVLM.on_test_end
def on_test_start(self):
    start(self); self.trainer.strategy.barrier("clock")
    self.clock = time.perf_counter(), time.process_time()
def on_test_end(self):
    busy = time.process_time()
    end(self)
    print("SECONDS", time.perf_counter() - self.clock[0], busy - self.clock[1], flush=True)
m.PrunedVLM.on_test_start, m.PrunedVLM.on_test_end = on_test_start, on_test_end
from zoo_exp.cli import entry
entry()
"""


@dataclass(frozen=True)
class Measured:
    """One run: seconds of the test loop, CPU seconds of its busiest rank, seconds of the whole command, answers."""

    loop: float
    cpu: float
    whole: float
    answers: int

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.loop


def main() -> None:
    """Run in turn and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=128, help="questions of each task")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ddp-"))
    script = folder / "marked.py"
    script.write_text(MARKS)
    print(f"{os.cpu_count()} cores, one thread per rank, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<22}{'answers':>8}{'loop s':>9}{'answers/s':>11}{'share':>7}{'command s':>11}")
    best: dict[str, Measured] = {}
    records: set[bytes] = set()
    several = f"{args.ranks} ranks"
    try:
        for repeat in range(args.repeats):
            found = {"1 rank": join(script, [(folder / f"one-{repeat}", 1)], args.limit, records)}
            found[several] = join(script, [(folder / f"all-{repeat}", args.ranks)], args.limit, records)
            apart = [(folder / f"apart-{repeat}-{number}", 1) for number in range(args.ranks)]
            found[f"{args.ranks} x 1 rank apart"] = join(script, apart, args.limit, records)
            for name, one in found.items():
                share = one.cpu / one.loop
                print(
                    f"{name:<22}{one.answers:>8}{one.loop:>9.1f}{one.rate:>11.1f}{share:>7.2f}{one.whole:>11.1f}"
                )
                best[name] = max(best.get(name, one), one, key=lambda m: m.rate)
    finally:
        shutil.rmtree(folder)
    one = best["1 rank"]
    summary = {
        "answers_per_s": {name: round(m.rate, 1) for name, m in best.items()},
        "speedup": {name: round(m.rate / one.rate, 2) for name, m in best.items()},
        "speedup_by_cpu_time": {several: round(one.cpu / best[several].cpu, 2)},
        "same_bytes": len(records) == 1,
    }
    print(json.dumps(summary))


def join(script: Path, runs: list[tuple[Path, int]], limit: int, records: set[bytes]) -> Measured:
    """Runs at the same time, each into its folder with its number of ranks, as one."""
    started = time.perf_counter()
    processes = [start(script, out, ranks, limit) for out, ranks in runs]
    outputs = [process.communicate() for process in processes]
    whole = time.perf_counter() - started
    loops, busy, answers = [], [], 0
    for process, (printed, errors), (out, ranks) in zip(processes, outputs, runs, strict=True):
        if process.returncode:
            raise SystemExit(printed + errors)
        lines = [line.split() for line in printed.splitlines() if line.startswith("SECONDS")]
        assert len(lines) == ranks, printed
        loops.append(max(float(line[1]) for line in lines))
        busy.append(max(float(line[2]) for line in lines))
        (path,) = out.glob("*/*/records.jsonl")
        records.add(path.read_bytes())
        answers += path.read_bytes().count(b"\n")
    return Measured(max(loops), max(busy), whole, answers)


def start(script: Path, out: Path, ranks: int, limit: int) -> "subprocess.Popen[str]":
    """One command."""
    more = ["trainer.strategy=ddp", f"trainer.devices={ranks}"] if ranks > 1 else []
    command = [sys.executable, str(script), "run", *OVERRIDES, f"limit={limit}", f"out={out}", *more]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


if __name__ == "__main__":
    main()
