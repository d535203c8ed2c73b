"""The same questions in other ways: killed and resumed, by two ranks, as a SLURM array; compared byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.console import plain_console
from zoo_exp.errors import ZooExpError
from zoo_exp.runs import folder as run_folder
from zoo_exp.runs import reading

ARMS = ("selector=[full,random,zoo,fastv]", "budget=20%", "limit=2", "model.batch_size=1")
"""A few arms, input and layer selectors, with two questions of each task: what the ways have to agree on."""
LONGEST = 900.0
"""Seconds after which a way has failed."""


def slurm_is_here() -> bool:
    """Whether a SLURM cluster answers."""
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        return False
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def compare(texts: Sequence[str], folder: Path) -> dict[str, str]:
    """Answer the same questions in every way.

    Args:
        texts: overrides of the experiment; `ARMS` replace its arms.
        folder: takes one run per way.

    Returns:
        By way what is wrong: "" if its records are those of one process, `-` where the way is not available.
    """
    texts = [text for text in texts if not text.startswith(("out=", "limit="))]
    expected = _here([*texts, *ARMS, f"out={folder / 'one'}"])
    ways: dict[str, Callable[[list[str]], bytes]] = {"killed": _killed, "ranks": _ranks, "array": _array}
    found = {}
    for name, answer in ways.items():
        if name == "array" and not slurm_is_here():
            found[name] = "-"
            continue
        try:
            records = answer([*texts, *ARMS, f"out={folder / name}"])
        except subprocess.TimeoutExpired:
            found[name] = f"no result within {LONGEST:.0f} s"
            continue
        except (ZooExpError, OSError) as error:
            found[name] = str(error)
            continue
        found[name] = "" if records == expected else "other records than those of one process"
    return found


def _here(texts: Sequence[str]) -> bytes:
    """The records of one process, or of what is left of a run."""
    experiment = compose(texts)
    code = pipeline.run(experiment, plain_console(quiet=True))
    if code:
        raise ZooExpError(f"exit code {code}")
    return _records(texts)


def _killed(texts: list[str]) -> bytes:
    """Killed once something is recorded, and resumed here."""
    experiment = compose(texts)
    with _started("run", texts) as process:
        deadline = time.monotonic() + LONGEST
        while process.poll() is None and time.monotonic() < deadline:
            if any(
                path.stat().st_size for path in run_folder.journals(experiment.run_dir, run_folder.RECORDS)
            ):
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    left = sum(1 for _ in reading.records(experiment.run_dir))
    if not left or process.returncode != -signal.SIGKILL:
        raise ZooExpError(f"the process had ended before it was killed, with exit code {process.returncode}")
    return _here(texts)


def _ranks(texts: list[str]) -> bytes:
    """Two ranks (gloo), as the command starts them."""
    return _command("run", [*texts, "trainer.strategy=ddp", "trainer.devices=2"])


def _array(texts: list[str]) -> bytes:
    """A SLURM array with one element per task."""
    return _command("slurm", [*texts, "gpus=0", "--wait"])


def _command(name: str, texts: list[str]) -> bytes:
    with _started(name, texts) as process:
        try:
            output, _ = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        raise ZooExpError(f"exit code {process.returncode}: {' '.join(last)[:200]}")
    return _records([text for text in texts if text != "--wait" and not text.startswith("gpus=")])


def _started(name: str, texts: Sequence[str]) -> "subprocess.Popen[bytes]":
    """A command in a process group of its own, on one thread, without the network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "zoo_exp", name, *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def _records(texts: Sequence[str]) -> bytes:
    return (compose(texts).run_dir / "records.jsonl").read_bytes()
