"""W&B while an experiment runs: one run per cell, with the same id after a resume; failures never end the run."""

import json
import os
import subprocess
import sys
import time

import cell_attempts
import numpy as np
import pytest
import warm
from cell_attempts import QUESTIONS, TASKS, answer, attempt, make_experiment
from loopback_wandb import Server
from PIL import Image
from wandb_file import read_back

from zoo_exp.config import compose
from zoo_exp.report import summary
from zoo_exp.runs import cells
from zoo_exp.runs.merge import merge_run
from zoo_exp.tasks import get
from zoo_exp.tracking.cell_logger import CellLogger
from zoo_exp.tracking.final_run import log_run


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """Neither variables nor key files of whoever runs the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def experiment(tmp_path):
    return make_experiment(tmp_path / "runs")


def folders(experiment):
    """Folders of the offline runs by W&B id, oldest first."""
    found = {}
    for folder in sorted((experiment.run_dir / "wandb").glob("offline-run-*")):
        found.setdefault(folder.name.rsplit("-", 1)[1], []).append(folder)
    return found


def until_another_name(experiment):
    """Wait until W&B gives another name to a folder: it names them by the second."""
    ((*_, last),) = folders(experiment).values()
    while time.strftime("run-%Y%m%d_%H%M%S-") in last.name:
        time.sleep(0.05)


def test_each_cell_is_a_run_that_grows_and_is_complete_at_the_end(experiment):
    first, second = experiment.cells()
    lines = []
    logger = CellLogger(experiment, lines.append, every=0)
    attempt(experiment, [(first, range(QUESTIONS))], logger)
    (folder,) = next(iter(folders(experiment).values()))
    attempt(experiment, [(second, [0])], logger)
    # The first cell was closed as soon as the second began, long before the end.
    rows = read_back(folder)["history"]
    assert [row["answers"] for row in rows] == [*(5 * n for n in range(1, QUESTIONS + 1)), 30]
    last = rows[-1]
    assert last["embedded_gqa/full"] == pytest.approx(4 / 6)
    assert last["mean_score/full"] == pytest.approx(4 / 6)
    assert last["kept_tokens/zoo multiply @16"] == 16
    assert last["flops_tflop/full"] == pytest.approx(0.002)
    assert last["select_ms/zoo multiply @16"] == 2.0
    assert last["prefill_decode_ms/zoo multiply @16"] == 30.0
    assert {key for key in last if key.startswith("mean_score/random")} == {"mean_score/random @16 (3 seeds)"}
    assert last["results"]["nrows"] == 3
    (images,) = (value for key, value in last.items() if key.startswith("masks/"))
    assert images["count"] == 4  # each question once
    assert len(images["all_masks"]) == 4
    assert {len(masks) for masks in images["all_masks"]} == {3}  # with a mask of each row of the table
    assert (folder / "files" / last["results"]["path"]).is_file()

    attempt(experiment, [(second, range(1, QUESTIONS))], logger)
    logger.close()
    assert not lines
    about = [read_back(paths[-1])["run"] for paths in folders(experiment).values()]
    assert {run.run_group for run in about} == {experiment.name}
    assert sorted(run.job_type for run in about) == [f"{task}/zoo" for task in TASKS]
    assert sorted(run.display_name for run in about) == [f"{experiment.name}/{task}" for task in TASKS]
    config = read_back(folder)["config"]
    assert config["task"] == "embedded_gqa"
    assert str(experiment.out) not in json.dumps(config)
    assert "WANDB_MODE" not in os.environ


def test_a_resumed_cell_keeps_its_id_and_its_last_folder_is_complete(experiment):
    (cell, _) = experiment.cells()
    logger = CellLogger(experiment, print, every=0)
    attempt(experiment, [(cell, range(3))], logger)
    logger.close()
    merge_run(experiment)  # what a stopped run does
    until_another_name(experiment)
    logger = CellLogger(experiment, print, every=0)
    attempt(experiment, [(cell, range(3, QUESTIONS))], logger)
    logger.close()
    ((first, second),) = folders(experiment).values()
    early, late = (read_back(folder)["history"] for folder in (first, second))
    assert [row["answers"] for row in early] == [5, 10, 15]
    assert [row["answers"] for row in late] == [5, 10, 15, 20, 25, 30, 30]
    assert "results" in late[-1]
    assert "results" not in early[-1]


def test_a_finished_cell_is_logged_once_and_a_cell_without_batches_too(experiment):
    (cell, _) = experiment.cells()
    cells.note(experiment.run_dir, cell, cells.DONE, samples=QUESTIONS)
    answer(experiment, cell, range(QUESTIONS))  # as records that an earlier run had
    for _ in range(2):
        CellLogger(experiment, print).close()
        assert [len(paths) for paths in folders(experiment).values()] == [1]


def test_rows_of_all_ranks_count_and_only_rank_0_logs(experiment):
    (cell, _) = experiment.cells()
    logger = CellLogger(experiment, print, every=0)
    attempt(experiment, [(cell, range(0, QUESTIONS, 2))], logger, ranks=2, is_rank_zero=False)
    assert not folders(experiment)
    answer(experiment, cell, range(1, QUESTIONS, 2), rank=1)
    logger.close()
    ((folder,),) = folders(experiment).values()
    assert read_back(folder)["history"][-1]["answers"] == 30


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failing_wandb_is_named_once_and_stops_nothing(experiment, monkeypatch, where):
    import wandb

    def fail(*args, **kwargs):
        raise RuntimeError("the service is gone")

    monkeypatch.setattr(*((wandb, "init") if where == "init" else (wandb.Run, where)), fail)
    lines = []
    logger = CellLogger(experiment, lines.append, every=0)
    attempt(experiment, [(cell, range(QUESTIONS)) for cell in experiment.cells()], logger)
    logger.close()
    (line,) = lines
    assert "the service is gone" in line
    assert all(state.complete for state in cells.states(experiment.run_dir, experiment.cells()))


@pytest.mark.parametrize("how", ["disabled", "none"])
def test_disabled_wandb_is_not_used(tmp_path, monkeypatch, how):
    if how == "disabled":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = "logger=none" if how == "none" else "logger=wandb"
    made = compose(["selector=[full]", "task=embedded_gqa", f"out={tmp_path}", logger])
    made.run_dir.mkdir(parents=True)
    watch = CellLogger(made, print, every=0)
    attempt(made, [(made.cells()[0], range(QUESTIONS))], watch)
    watch.close()
    assert not (made.run_dir / "wandb").exists()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.mark.slow
def test_both_folders_of_a_resumed_offline_run_sync_to_one_whole_run(experiment, server):
    (cell, _) = experiment.cells()
    for numbers in (range(3), range(3, QUESTIONS)):
        logger = CellLogger(experiment, print, every=0)
        attempt(experiment, [(cell, numbers)], logger)
        logger.close()
        until_another_name(experiment)
    ((first, second),) = folders(experiment).values()
    keys = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "wandb", "sync", "--yes", str(first), str(second)]
    done = subprocess.run(command, env=os.environ | keys, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    ((name, about),) = server.runs.items()
    assert first.name.endswith(name)
    assert (about["groupName"], about["jobType"]) == (experiment.name, "embedded_gqa/zoo")
    ((_, history),) = server.history.items()
    assert history[-1]["answers"] == 30
    assert {5, 10, 15, 20, 25, 30} <= {row["answers"] for row in history}
    assert history[-1]["embedded_gqa/full"] == pytest.approx(4 / 6)
    assert any("media/images" in path for path in server.uploads)


@pytest.fixture
def online(experiment, server):
    """Function that starts a process whose W&B is online at the loopback server."""
    keys = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online"}
    keys["PYTHONPATH"] = os.pathsep.join(sys.path)  # modules beside the tests
    started = []

    def start(patience=120, **more):
        command = [sys.executable, cell_attempts.__file__, str(experiment.out), str(patience)]
        process = warm.Popen(
            command,
            env=os.environ | keys | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)

        def tell(command):
            """Lines for the user until it is done."""
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            said = []
            while (line := process.stdout.readline()).strip() != "done":
                assert line, "the process has ended"
                said.append(line.strip())
            return said

        return tell

    yield start
    for process in started:
        process.stdin.close()
        process.wait(timeout=300)


@pytest.mark.slow
def test_a_resumed_online_run_continues_the_same_run(experiment, server, online):
    for numbers in ([0, 1, 2], [3, 4, 5]):
        tell = online()
        assert tell([[0, numbers]]) == []
        assert tell("close") == []
    ((name, about),) = server.runs.items()
    assert (about["groupName"], about["jobType"]) == (experiment.name, "embedded_gqa/zoo")
    # This server knows nothing of earlier runs, so lines of the second attempt replace those of the first: it began
    # with its own rows, and closed with the whole cell.
    assert [row["answers"] for row in server.history[name]] == [20, 25, 30, 30]
    assert server.history[name][-1]["embedded_gqa/full"] == pytest.approx(4 / 6)
    assert server.summaries[name]["kept_tokens/zoo multiply @16"] == 16
    assert any("media/images" in path for path in server.uploads)
    assert not list((experiment.run_dir / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_an_unreachable_server_costs_one_line_and_bounded_time(experiment, server, online):
    tell = online(patience=3)
    assert tell([[0, [0]]]) == []
    server.close()
    started = time.monotonic()
    said = tell([[0, [1, 2, 3, 4, 5]], [1, [0, 1, 2, 3, 4, 5]]]) + tell("close")
    assert time.monotonic() - started < 300  # W&B alone would try for days
    assert all(state.complete for state in cells.states(experiment.run_dir, experiment.cells()))
    (line,) = said
    assert "online failed" in line
    assert "wandb sync" in line
    written = [paths[-1] for paths in folders(experiment).values()]
    assert written
    assert all(read_back(folder)["history"][-1]["answers"] == 30 for folder in written)


@pytest.mark.slow
def test_offline_runs_open_no_connection(server, online):
    tell = online(WANDB_MODE="offline")
    tell([[0, list(range(QUESTIONS))]])
    tell("close")
    assert server.requests == []


@pytest.mark.slow
def test_a_real_run_logs_its_cells_while_it_runs(tmp_path):
    """The whole way: `run` on the embedded model; W&B's numbers are those of the tables."""
    command = [sys.executable, "-m", "zoo_exp", "run", "selector=[full,zoo]", "budget=16", "limit=6"]
    command += [f"task=[{','.join(TASKS)}]", f"out={tmp_path / 'runs'}"]
    done = warm.run(
        command, env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "offline-run-*" in done.stdout.replace("\n", "")
    (run,) = (tmp_path / "runs").glob("*/*")
    results = {(r["task"], r["arm"]): r for r in json.loads((run / "results.json").read_text())["rows"]}
    written = [read_back(folder) for folder in (run / "wandb").glob("offline-run-*")]
    found = {content["run"].job_type: content["history"] for content in written}
    assert len(written) == len(found) == len(TASKS) + 1
    for task in TASKS:
        last = found[f"{task}/zoo"][-1]
        assert last[f"{task}/zoo multiply @16"] == pytest.approx(results[task, "zoo multiply @16"]["value"])
        assert last["flops_tflop/full"] == pytest.approx(results[task, "full"]["flops_tflop"])
        assert last[f"masks/{task}"]["count"] == 4
    assert found["experiment/zoo"][-1]["retained/full"] == 100


def test_running_scores_are_computed_for_logged_rows_only(experiment, monkeypatch):
    """They take longer the more answers there are: after every batch, they would take most of a large cell's time."""
    computed = []
    running = cell_attempts.Module.running.fget
    counted = property(lambda self: computed.append(self.recorded_in_cell) or running(self))
    monkeypatch.setattr(cell_attempts.Module, "running", counted)
    logger = CellLogger(experiment, print, every=1000)
    attempt(experiment, [(experiment.cells()[0], range(4))], logger)
    assert computed == [5]
    logger.close()
    assert computed == [5, 20]  # an unfinished cell is logged once more


def test_scores_of_the_next_cell_are_not_logged_as_those_of_an_unfinished_one(experiment):
    first, second = experiment.cells()
    logger = CellLogger(experiment, print, every=1000)
    attempt(experiment, [(first, range(3))], logger)
    cell_attempts.MODULES[id(logger)].begin(second)
    answer(experiment, second, [0])
    logger.close()
    (folder,) = next(iter(folders(experiment).values()))
    last = read_back(folder)["history"][-1]
    assert last["answers"] == 15
    assert not [name for name in last if name.startswith("embedded_")]


def test_the_files_of_a_run_with_many_arms_stay_within_their_budget(tmp_path, monkeypatch, capfd):
    """Images of noise, which no format compresses well, under 25 arms and two tasks."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 224, 224, 3), dtype=np.uint8)
    monkeypatch.setattr(cell_attempts, "picture", lambda number: Image.fromarray(noise[number]))
    made = make_experiment(tmp_path / "runs", "budget=[1,2,3,4,5,6]", "logger.media_mb=0.6")
    assert len(made.arms) == 25
    lines = []
    logger = CellLogger(made, lines.append, every=0)
    attempt(made, [(cell, range(QUESTIONS)) for cell in made.cells()], logger)
    logger.close()
    merge_run(made)
    tasks = [get(name) for name in made.tasks]
    summary.write(made.run_dir, made.name, tasks, [arm.as_dict() for arm in made.arms], draws=20)
    log_run(made.run_dir, made.as_dict(), echo=lines.append, media_mb=made.logger.media_mb)
    files = [
        path
        for name in ("wandb", "wandb-data")
        for path in (made.run_dir / name).rglob("*")
        if path.is_file() and not path.is_symlink()
    ]
    total = sum(path.stat().st_size for path in files)
    images = [path for path in files if path.suffix in (".png", ".jpg") and "mask" not in path.parts]
    assert total <= 0.6e6, total
    assert 4 <= len(images) < 4 + 4 + 2 + 1  # of each cell, of the experiment, and the gallery
    assert len({path.read_bytes() for path in images}) >= len(images) / 3  # each once per W&B run
    assert any("are left out (logger.media_mb=0.6 per run)" in line for line in lines)
    printed = capfd.readouterr()
    assert "bytes" not in printed.out + printed.err
