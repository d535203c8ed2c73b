"""`slurm` without a cluster: submissions, messages and errors."""

import os
import subprocess
from pathlib import Path

import pytest

from zoo_exp import cli, pipeline
from zoo_exp.cluster import cell, resources, status, submission, tools
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.runs import cells, lock
from zoo_exp.runs.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
BASE = ["selector=[full,blind]", "task=[embedded_pope,embedded_gqa,embedded_mme]", "limit=4", "logger=none"]
FAKE = {
    "sinfo": "echo cpu; echo gpu",
    "squeue": 'cat "$FAKE/queue" 2> /dev/null || true',
    "sbatch": 'printf "%s\\n" "$@" > "$FAKE/submitted"; echo "17;cluster"',
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder with commands that only write down what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in FAKE.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def experiment(tmp_path):
    return compose([*BASE, f"out={tmp_path / 'runs'}"])


def slurm(experiment, *more):
    return cli.main(["slurm", *experiment.overrides, *more])


def submitted(fake):
    path = fake / "submitted"
    words = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return words


def complete(experiment, cell):
    cells.note(experiment.run_dir, cell, cells.RUNNING, samples=4)
    with Journal(experiment.run_dir, "records", cell.id) as file:
        answer = {"cell": cell.id, "task": cell.task, "response": "yes", "score": 1.0, "kept_tokens": 16}
        file.append(
            {**answer, **arm.as_dict(), "version": 1, "sample_id": str(n)}
            for arm in cell.arms
            for n in range(4)
        )


def test_everything_is_submitted_once_and_then_only_what_is_not_complete(fake, experiment, capsys):
    assert slurm(experiment, "partition=gpu", "gpus=2", "time=01:00:00", "parallel=4") == 0
    words = submitted(fake)
    assert {
        "--array=0-2%4", "--partition=gpu", "--gpus-per-node=2", "--ntasks-per-node=2", "--time=01:00:00",
        f"--job-name=zoo-{experiment.id}",
    } <= set(words)  # fmt: skip
    assert words[-3].endswith("array.sbatch")
    printed = capsys.readouterr().out
    assert "job 17: 3 of 3 cells" in printed
    assert "squeue --job=17" in printed
    complete(experiment, experiment.cells()[1])
    slurm(experiment)
    assert "--array=0,2" in submitted(fake)
    (fake / "queue").write_text("2 RUNNING\n0 PENDING\n")
    slurm(experiment)
    assert submitted(fake) == []
    assert "nothing to submit: 2 queued, 1 done" in capsys.readouterr().out


def test_a_cell_that_another_process_runs_is_not_submitted(fake, experiment):
    with lock.cells(experiment.run_dir, [experiment.cells()[0].id]):
        slurm(experiment)
    assert "--array=1-2" in submitted(fake)


def test_status_shows_every_kind_of_cell(fake, experiment, capsys):
    done, failed, waiting = experiment.cells()
    complete(experiment, done)
    cells.note(experiment.run_dir, failed, cells.FAILED, samples=4, error="an error")
    logs = experiment.run_dir / "slurm" / "logs"
    logs.mkdir(parents=True)
    (logs / "9_1.out").write_text("an old log\n")
    (logs / "10_1.out").write_text("working\nerror: out of memory\nsrun: error: task 0: exit code 2\n\n")
    (fake / "queue").write_text("2 PENDING\n")
    assert slurm(experiment, "--status") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["0", done.task, "done", "8/8"]
    assert lines[2] == ["1", failed.task, "failed", "0/8", "error:", "out", "of", "memory"]
    assert lines[3] == ["2", waiting.task, "queued", "0/?", "pending"]
    assert submitted(fake) == []


SILENT = """#!/bin/sh
for n in 1 2 3; do echo "$(basename "$0"): error: fetch_config: lookup $n failed" >&2; done
echo "$(basename "$0"): fatal: Could not establish a configuration source" >&2
exit 1
"""


def test_status_without_a_controller_shows_what_is_on_disk(fake, experiment, capsys):
    complete(experiment, experiment.cells()[1])
    (fake / "squeue").write_text(SILENT)
    assert slurm(experiment, "--status") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[2] for line in lines[1:4]] == ["missing", "done", "missing"]
    assert lines[4:] == [
        "queue unknown (squeue: Could not establish a configuration source): pending cells are not marked above"
    ]
    assert printed.err == ""


def test_status_without_slurm_reports_it(fake, experiment, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert slurm(experiment, "--status") == 0
    assert "queue unknown (squeue is not on the PATH)" in capsys.readouterr().out


def test_a_known_queue_state_has_no_remark(fake, experiment, capsys):
    assert slurm(experiment, "--status") == 0
    assert "unknown" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["squeue", "sinfo"])
def test_submission_without_a_controller_is_refused_with_a_hint(fake, experiment, capsys, command):
    (fake / command).write_text(SILENT)
    assert slurm(experiment, "partition=gpu") == 2
    assert capsys.readouterr().err == (
        f"error: {command}: Could not establish a configuration source: run this on a login node of the cluster, "
        "or --dry-run to see what would be submitted\n"
    )
    assert submitted(fake) == []


def test_an_error_without_a_fatal_line_is_shown_by_its_first(fake, experiment, capsys):
    (fake / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: no answer' >&2; echo more >&2; exit 1\n"
    )
    slurm(experiment, "--status")
    assert "queue unknown (squeue: slurm_load_jobs error: no answer)" in capsys.readouterr().out


def test_a_cell_that_was_killed_without_a_message_has_failed(fake, experiment):
    logs = experiment.run_dir / "slurm" / "logs"
    logs.mkdir(parents=True)
    (logs / "3_0.out").write_text("error: the configuration has changed\n")
    first = status.rows(experiment)[0]
    assert (first.state, first.note) == ("failed", "error: the configuration has changed")


def test_dry_run_prints_the_script_and_touches_nothing(fake, experiment, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert slurm(experiment, "partition=anything", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# sbatch --parsable")
    assert (ROOT / "slurm" / "array.sbatch").read_text() in printed
    assert not experiment.run_dir.exists()


def test_without_sbatch_there_is_a_hint(fake, experiment, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert slurm(experiment) == 2
    assert "sbatch is not on the PATH: submit from a login node" in capsys.readouterr().err


def test_a_missing_partition_is_refused_with_the_existing_ones(fake, experiment, capsys):
    assert slurm(experiment, "partition=gpuu") == 2
    error = capsys.readouterr().err
    assert "unknown partition 'gpuu'. Did you mean 'gpu'? Available: cpu, gpu." in error
    assert submitted(fake) == []


def test_messages_of_sbatch_are_shown(fake, experiment, capsys):
    (fake / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid account' >&2; exit 1\n")
    assert slurm(experiment) == 2
    assert capsys.readouterr().err == "error: sbatch failed: sbatch: error: invalid account\n"


@pytest.mark.parametrize(
    "said",
    [
        "Invalid generic resource (gres) specification",
        "Batch job submission failed: Requested node configuration is not available",
    ],
)
def test_a_cluster_without_gpus_gets_a_hint(said, fake, experiment, capsys):
    (fake / "sbatch").write_text(f"#!/bin/sh\necho 'sbatch: error: {said}' >&2; exit 1\n")
    assert slurm(experiment, "gpus=2") == 2
    error = capsys.readouterr().err
    assert f"{said}. The job asks for --gpus-per-node=2; where there are no GPUs, add gpus=0" in error
    assert slurm(experiment, "gpus=0") == 2
    assert "add gpus=0" not in capsys.readouterr().err


def test_without_arguments_the_command_is_refused(capsys):
    assert cli.main(["slurm"]) == 2
    assert "+exp=NAME" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["gpus=two", "gpus=-1", "nodes=0", "time=1h", "mem="])
def test_invalid_resources_are_refused(text):
    with pytest.raises(InvalidValueError, match=text):
        resources.split([text])


def test_resources_and_overrides_are_distinguished():
    wanted, rest = resources.split(["+exp=x", "gpus=0", "time=2-00:00:00", "trainer.devices=2", "budget=16"])
    assert (wanted.gpus, wanted.time) == (0, "2-00:00:00")
    assert rest == ["+exp=x", "trainer.devices=2", "budget=16"]


def test_a_real_model_gets_a_gpu_by_default(tmp_path):
    big = compose([*BASE, "model=llava15_7b", f"out={tmp_path}"])
    assert "--gpus-per-node=1" in submission.prepare(big, resources.Resources(), [0]).command
    assert "--gpus-per-node=1" not in submission.prepare(big, resources.Resources(gpus=0), [0]).command


def test_a_custom_batch_script_replaces_the_default(tmp_path):
    own = tmp_path / "own.sbatch"
    with pytest.raises(MissingFileError, match=r"own\.sbatch"):
        submission.batch_script(str(own))
    own.write_text("#!/bin/sh\n")
    assert submission.batch_script(str(own)) == own


def test_a_configuration_that_changed_after_the_submission_is_refused(fake, experiment, tmp_path):
    prepared = submission.prepare(experiment, resources.Resources(), [0])
    other = compose([*BASE, f"out={tmp_path / 'runs'}", "seed=3"])
    submission.submit(prepared, experiment, [])
    plan = submission.folder_of(experiment) / submission.PLAN
    plan.write_text(plan.read_text().replace('"seed": 0,\n  "limit"', '"seed": 3,\n  "limit"'))
    with pytest.raises(InvalidValueError, match=r"since this job was submitted:\n(.*\n)*  seed: 3 -> 0"):
        cell.run_cell(plan, 0, pipeline.run)
    assert other.run_dir != experiment.run_dir
    with pytest.raises(InvalidValueError, match="has the cells 0 to 2"):
        cell.run_cell(plan, 3, pipeline.run)
    with pytest.raises(MissingFileError, match="submit the experiment again"):
        cell.run_cell(tmp_path / "no.json", 0, pipeline.run)


def test_a_missing_report_of_the_last_cell_is_made_by_the_next_command(fake, experiment, monkeypatch):

    for one in experiment.cells():
        complete(experiment, one)
    seen = []
    monkeypatch.setattr(pipeline, "finish", lambda *args: seen.append(args[0].id))
    assert slurm(experiment) == 0
    assert seen == [experiment.id]
    (experiment.run_dir / "results.json").write_text("{}")
    assert slurm(experiment) == 0
    assert len(seen) == 1


def test_waiting_prints_changes(fake, experiment, monkeypatch):
    queues = [{0: "PENDING", 1: "PENDING"}, {0: "RUNNING", 1: "PENDING"}, {0: "RUNNING", 1: "PENDING"}, {}]
    monkeypatch.setattr(tools, "queue", lambda name: queues.pop(0))
    said = []
    status.wait(experiment, said.append, seconds=0)
    assert said == ["in the queue: 2 pending", "in the queue: 1 pending, 1 running"]


def test_an_unknown_partition_in_a_list_is_found(fake):
    with pytest.raises(UnknownNameError, match="'tpu'"):
        tools.check_partition("gpu,tpu")


@pytest.mark.parametrize("script", ["array.sbatch", "local_cluster.sh"])
def test_the_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / "slurm" / script)], check=True)


def test_a_misspelt_job_setting_is_refused_with_the_job_settings():
    with pytest.raises(
        UnknownNameError, match=r"'gpu'. Did you mean 'gpus'\? Job settings are partition, gpus"
    ):
        resources.split(["+exp=ablation_fusion", "gpu=1"])
