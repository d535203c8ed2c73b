"""When the first line, the first answer and the tables of a small run come, in processor seconds and wall seconds.

    python benchmarks/start.py            # a run with limit=1 on the embedded model; `list selectors`
    python benchmarks/start.py --json experiments/efficiency/start.json

Each command is a new process. Processor time (user and system, all threads) hardly depends on other work on the
machine; on a quiet core it is the wall time. The first answer is the first record in the run folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measured(arguments: list[str], folder: Path) -> dict[str, tuple[float, float]]:
    """Moment -> (processor seconds, wall seconds) of one command."""
    out = folder / "stdout"
    found: dict[str, tuple[float, float]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with out.open("wb") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo_exp", *arguments], stdout=stream, stderr=stream, env=environment
        )
        while True:
            now = cpu_seconds(process.pid), time.perf_counter() - started
            if "first line" not in found and out.stat().st_size:
                found["first line"] = now
            if "first answer" not in found and any(
                path.stat().st_size for path in folder.rglob("records*.jsonl")
            ):
                found["first answer"] = now
            found["end"] = now
            if process.poll() is not None:
                break
            time.sleep(0.005)
    if process.returncode:
        sys.exit(out.read_text(errors="replace"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    rows = []
    for name, arguments in (
        ("list selectors", ["list", "selectors"]),
        ("run limit=1, 2 arms", ["run", "task=embedded_pope", "selector=[full,zoo]", "budget=16", "limit=1"]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            more = [f"out={folder}", "logger=none"] if arguments[0] == "run" else []
            for moment, (cpu, wall) in measured([*arguments, *more], Path(folder)).items():
                rows.append({"command": name, "moment": moment, "cpu s": cpu, "wall s": round(wall, 2)})
                print(f"{name:22s} {moment:14s} {cpu:6.2f} s of processor time {wall:8.2f} s", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
