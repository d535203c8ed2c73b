"""Two ranks against one on the same questions: throughput, and whether the records are the same bytes.

    python benchmarks/ddp.py                    # embedded model, four tasks, one thread for each rank
    python benchmarks/ddp.py --limit 50 --ranks 1 2

Every rank has one thread, so that one rank uses one core and two use two. Both runs are processes of their own, in turn
and repeated; what counts is the time between the first and the last batch of a run, without imports, loading and tables
(those are the same for both and shrink with the size of a study). The start of two ranks is printed beside it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OVERRIDES = [
    "+exp=ablation_fusion", "task=[embedded_gqa,embedded_pope,embedded_mme,embedded_seedbench]", "budget=16",
    "logger=none", "trainer=cpu",
]  # fmt: skip
MARKS = """
import time, zoo_exp.evaluation.module as m
start, end = m.PrunedVLM.on_test_start, m.PrunedVLM.on_test_end
def on_test_start(self):
    start(self); self.trainer.strategy.barrier("clock"); self.clock = time.perf_counter()
def on_test_end(self):
    end(self)
    if self.global_rank == 0: print("SECONDS", time.perf_counter() - self.clock, flush=True)
m.PrunedVLM.on_test_start, m.PrunedVLM.on_test_end = on_test_start, on_test_end
from zoo_exp.cli import entry
entry()
"""


def main() -> None:
    """Run in turn and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=100, help="questions of each task")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ddp-"))
    script = folder / "marked.py"
    script.write_text(MARKS)
    best: dict[int, float] = {}
    records: dict[int, bytes] = {}
    print(f"{os.cpu_count()} cores, one thread per rank, load {os.getloadavg()[0]:.1f}")
    try:
        for repeat in range(args.repeats):
            for ranks in args.ranks:
                out = folder / f"{ranks}-{repeat}"
                inside, whole = run(script, out, ranks, args.limit)
                (path,) = out.glob("*/*/records.jsonl")
                records[ranks] = path.read_bytes()
                answers = records[ranks].count(b"\n")
                best[ranks] = max(best.get(ranks, 0.0), answers / inside)
                print(
                    f"ranks {ranks}: {answers} answers in {inside:7.1f} s ({answers / inside:7.1f}/s), "
                    f"the whole command {whole:7.1f} s"
                )
    finally:
        shutil.rmtree(folder)
    first = args.ranks[0]
    summary = {
        "answers_per_s": {ranks: round(rate, 1) for ranks, rate in best.items()},
        "speedup": {ranks: round(rate / best[first], 2) for ranks, rate in best.items()},
        "same_bytes": len(set(records.values())) == 1,
    }
    print(json.dumps(summary))


def run(script: Path, out: Path, ranks: int, limit: int) -> tuple[float, float]:
    """Seconds of the test loop, and of the whole command."""
    more = ["trainer.strategy=ddp", f"trainer.devices={ranks}"] if ranks > 1 else []
    command = [sys.executable, str(script), "run", *OVERRIDES, f"limit={limit}", f"out={out}", *more]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
    return float(line.split()[1]), whole


if __name__ == "__main__":
    main()
