"""The same experiment on a real (private) SLURM: arrays, two nodes, preemption, time limit, a failing cell."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.runs import lock, reading

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "slurm" / "local_cluster.sh"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch")
BASE = ["selector=[full,zoo]", "budget=16", "logger=none", "model.batch_size=2"]
PATH = f"{os.environ['PATH']}:/usr/sbin"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of two nodes: the one of SLURM_CONF if `local_cluster.sh` made it, else one of our own."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.getuid() != 0:
        pytest.skip("a private cluster was only tried as root")
    given = Path(os.environ.get("SLURM_CONF", ""))
    if given.is_file() and "ClusterName=zoo\n" in given.read_text():
        yield {"SLURM_CONF": str(given)}
        return
    folder = tmp_path_factory.mktemp("cluster")
    try:
        subprocess.run([CLUSTER, "start", folder, "2", "2", "2"], check=True, capture_output=True, text=True)
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=False, capture_output=True)


@pytest.fixture
def shell(cluster):
    """Run a command on the cluster's login node; its standard output."""
    environment = {**os.environ, **cluster, "PATH": PATH}

    def call(*command, check=True):
        start = warm.run if command[0] == sys.executable else subprocess.run
        done = start(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """`script=FILE`: the batch script, with an interpreter that has no seconds of imports."""
    folder = tmp_path_factory.mktemp("script")
    text = (ROOT / "slurm" / "array.sbatch").read_text()
    assert "\npython=$1\n" in text
    path = folder / "warm.sbatch"
    path.write_text(text.replace("\npython=$1\n", f"\npython={warm.interpreter(folder / 'python')}\n"))
    return f"script={path}"


def slurm(shell, out, *more, **options):
    return shell(sys.executable, "-m", "zoo_exp", "slurm", *BASE, f"out={out}", *more, **options)


def single(out, *more):
    """The bytes of one process here."""
    experiment = compose([*BASE, "trainer=cpu", f"out={out}", *more])
    assert pipeline.run(experiment, Console(quiet=True)) == 0
    return (experiment.run_dir / "records.jsonl").read_bytes()


def until(condition, seconds=900, pause=0.2):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def rows(folder):
    return sum(1 for _ in reading.records(folder))


def test_an_array_with_a_failing_cell_and_the_second_submission(shell, script, tmp_path):
    """The others finish, the status names the failed one, and only that one is submitted again.

    The first jobs are as a user submits them; all others here have a warm interpreter.
    """
    tasks = ["task=[embedded_pope,embedded_gqa]", "limit=4"]
    expected = single(tmp_path / "single", *tasks)
    out = tmp_path / "array"
    folder = compose([*BASE, *tasks, f"out={out}"]).run_dir
    (folder / "journals").mkdir(parents=True)
    # The cell of GQA cannot write its journal: something lies in the way of the lock's folder entry.
    blocked = folder / "cells" / "embedded_gqa.json"
    blocked.mkdir(parents=True)
    printed = slurm(shell, out, *tasks, "--wait", check=False)
    assert "2 of 2 cells" in printed
    status = slurm(shell, out, *tasks, "--status").splitlines()
    assert status[1].split()[:4] == ["0", "embedded_pope", "done", "8/8"]
    assert status[2].split()[:3] == ["1", "embedded_gqa", "failed"]
    assert "embedded_gqa.json" in " ".join(status[2:])  # a long path stands below
    blocked.rmdir()
    printed = slurm(shell, out, *tasks, "--wait", script)
    assert "1 of 2 cells (embedded_gqa)" in printed
    assert (folder / "records.jsonl").read_bytes() == expected
    assert (folder / "results.md").exists()
    assert "nothing to submit: 2 done" in slurm(shell, out, *tasks)


def test_two_nodes_preempted_and_out_of_time(shell, script, tmp_path):
    """One cell on two nodes: requeued by USR1, then by preemption; the bytes are those of one process."""
    task = ["task=embedded_pope", "limit=60"]
    expected = single(tmp_path / "single", *task)
    out = tmp_path / "nodes"
    folder = compose([*BASE, *task, f"out={out}"]).run_dir
    job = job_of(slurm(shell, out, *task, "nodes=2", "cpus=2", script))
    until(lambda: rows(folder) > 0)
    shell("scancel", f"--signal={signal.SIGUSR1.name.removeprefix('SIG')}", job)
    log = folder / "slurm" / "logs" / f"{job}_0.out"
    until(lambda: "restart 1" in log.read_text())
    assert "is requeued" in log.read_text()
    before = rows(folder)
    until(lambda: rows(folder) > before)
    shell("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: "restart 2" in log.read_text())
    slurm(shell, out, *task, "--wait", script)
    assert (folder / "records.jsonl").read_bytes() == expected
    written = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    repeated = sum(row["batch_size"] for row in written) - len(expected.splitlines())
    assert 0 <= repeated <= 2 * 2 * 2 * 2  # 2 kills x 2 ranks x a batch of 2 x 2 arms


def holders(folder):
    """Processes that record for a cell at this moment."""
    found = (lock.holder(folder, path.stem) for path in (folder / "locks").glob("*.lock"))
    return [int(text.split()[1]) for text in found if text and "SLURM job" in text]


@pytest.mark.parametrize("nodes", [1, 2])
def test_jobs_that_are_killed_outright_are_submitted_again_and_change_no_byte(shell, script, tmp_path, nodes):
    """SIGKILL at a seeded moment: an array of two cells, and one cell with a rank on each of two nodes."""
    tasks = ["task=[embedded_pope,embedded_gqa]" if nodes == 1 else "task=embedded_pope", "limit=150"]
    expected = single(tmp_path / "single", *tasks)
    out, draw, kills = tmp_path / "array", random.Random(nodes), 0
    folder = compose([*BASE, *tasks, f"out={out}"]).run_dir
    job, least = job_of(slurm(shell, out, *tasks, f"nodes={nodes}", script)), draw.randrange(1, 12)
    until(lambda: rows(folder) >= least or not queued(shell, job), pause=0.02)
    before = rows(folder)
    for process in holders(folder):
        os.kill(process, signal.SIGKILL)
        kills += 1
    until(lambda: not queued(shell, job))
    assert rows(folder) >= before
    assert kills
    status = slurm(shell, out, *tasks, "--status")
    assert "running" not in status
    slurm(shell, out, *tasks, f"nodes={nodes}", "--wait", script)
    assert (folder / "records.jsonl").read_bytes() == expected


def job_of(printed):
    return printed.split(":")[0].removeprefix("job ")


def queued(shell, job):
    return shell("squeue", "--noheader", f"--jobs={job}").strip()


def test_an_unknown_partition_is_refused_with_the_existing_ones(cluster, tmp_path):
    done = warm.run(
        [sys.executable, "-m", "zoo_exp", "slurm", *BASE, f"out={tmp_path}", "partition=mian"],
        capture_output=True,
        text=True,
        env={**os.environ, **cluster, "PATH": PATH},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "mian" in done.stderr
    assert "main, urgent" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("plan.json"))
