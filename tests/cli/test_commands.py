"""The command line: output, streams and exit codes."""

import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import yaml

from zoo_exp.cli import main
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, MissingFileError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runner(monkeypatch):
    """A runner that only remembers what it was given; `answer` is what it returns, or raises."""
    module = types.ModuleType("zoo_exp.pipeline")
    module.seen, module.answer = [], 0

    def run(experiment):
        module.seen.append(experiment)
        if isinstance(module.answer, BaseException):
            raise module.answer
        return module.answer

    module.run = run
    import zoo_exp

    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(zoo_exp, "pipeline", module, raising=False)
    return module


def test_without_arguments_help_is_printed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    for command in ("run", "list", "show", "embedded"):
        assert f"\n    {command} " in out


@pytest.mark.parametrize("command", ["run", "list", "show", "embedded"])
def test_help_of_each_command_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m zoo_exp {command}" in capsys.readouterr().out.split("Examples:")[1]


@pytest.mark.parametrize("arguments", [["--help"], ["list", "models"], ["list", "tasks"], ["list", "exps"]])
def test_listing_and_help_import_nothing_heavy(arguments):
    heavy = ["torch", "lightning", "transformers", "datasets", "wandb", "pandas", "matplotlib"]
    code = (
        "import sys; from zoo_exp.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("what", "names"),
    [("selectors", ["zoo", "divprune", "random"]), ("tasks", ["embedded_pope", "mme", "nine"]),
     ("models", ["embedded", "llava_next_7b"]), ("exps", ["ablation_fusion"])],
)  # fmt: skip
def test_list_gives_one_line_for_each_name(what, names, capsys):
    assert main(["list", what]) == 0
    first_words = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")
    ]
    assert set(names) <= set(first_words)
    assert len(first_words) == len(set(first_words))


def test_show_prints_yaml_with_the_cells(capsys):
    assert main(["show", "exp=ablation_fusion", "task=[embedded_pope,embedded_mme]", "budget=16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# python -m zoo_exp run exp=ablation_fusion")
    shown = yaml.safe_load(out)
    assert [cell["task"] for cell in shown["cells"]] == ["embedded_pope", "embedded_mme"]
    assert {cell["arms"] for cell in shown["cells"]} == {len(shown["arms"])}
    assert "zoo sum @16" in [arm["arm"] for arm in shown["arms"]]
    assert [cell["questions"] for cell in shown["cells"]] == [100, 200]
    assert all(cell["hours"] > 0 and cell["memory_gib"] > 0 for cell in shown["cells"])
    assert "# hours and memory_gib: estimates from" in out


def test_show_estimates_a_large_model_for_a_gpu_where_there_is_none(capsys):
    assert main(["show", "model=llava15_7b", "selector=full", "task=pope"]) == 0
    out = capsys.readouterr().out
    (cell,) = yaml.safe_load(out)["cells"]
    assert cell["questions"] == 9000
    assert cell["memory_gib"] > 13.2
    assert "A100" in out or torch.cuda.is_available()


def test_run_hands_the_experiment_to_the_runner(runner, tmp_path):
    runner.answer = 3
    assert main(["run", "selector=zoo", f"out={tmp_path}", "limit=2", "budget=16"]) == 3
    (experiment,) = runner.seen
    assert (experiment.limit, experiment.out) == (2, tmp_path)
    assert experiment.overrides == ("selector=zoo", f"out={tmp_path}", "limit=2", "budget=16")


def test_flags_and_overrides_may_stand_in_any_order(runner, capsys):
    assert main(["run", "--cfg", "job", "selector=zoo", "--debug", "budget=16", "seed=3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 3
    assert main(["run", "budget=16,8", "-m", "selector=zoo", "--cfg=sweep"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines] == [["selector=zoo", f"budget={b}"] for b in (16, 8)]
    assert runner.seen == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["command 'rum'", "'run'"]),
        (["+exp=ablation_fusion"], ["python -m zoo_exp run +exp=ablation_fusion"]),
        (["list", "selector"], ["'selectors'"]),
        (["show"], ["exp=NAME"]),
        (["show", "ablation_fusion"], ["type +exp=ablation_fusion"]),
        (["run", "ablation_fusion"], ["type +exp=ablation_fusion"]),
        (["run", "selector=full", "ablation_fusoin"], ["did you mean +exp=ablation_fusion?"]),
        (["run", "bugdet=64"], ["Did you mean 'budget'?"]),
        (["run", "+exp=ablation"], ["experiment 'ablation'", "ablation_fusion"]),
        (["run", "selector=zoo", "budget=1000"], ["1000", "144"]),
        (["run", "selector=zoo", "budget=64,32"], ["add -m"]),
        (["run", "-m", "selector=zoo", "budget=64,1000"], ["1000", "at the point"]),
        (["run", "selector=full", "--config-dir", "nowhere"], ["nowhere", "no such folder"]),
    ],
)
def test_a_user_error_is_one_message_and_exit_code_2(arguments, words, capsys, runner):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert runner.seen == []


def test_debug_adds_the_traceback(capsys):
    assert main(["run", "bugdet=64", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: unknown config key 'bugdet'" in err


@pytest.mark.parametrize(
    "arguments", [["run", "--foo"], ["list"], ["list", "models", "more", "still"], ["run", "--cfg", "no"]]
)
def test_argparse_refuses_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [(["run", "--exp", "ablation_fusion"], "+exp=ablation_fusion"), (["show", "--exp=sanity"], "+exp=sanity"),
     (["run", "+exp=sanity", "--budget", "64", "--limit=3"], "budget=64 limit=3"),
     (["tokens", "--model.layers", "4"], "model.layers=4"), (["run", "--model"], "model=VALUE"),
     (["bench", "--exp", "--debug"], "+exp=VALUE")],
)  # fmt: skip
def test_an_override_with_dashes_gets_a_hint(arguments, hint, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"; overrides have no dashes: {hint}\n")


def test_other_unknown_flags_get_no_hint(capsys):
    for arguments in (["run", "--foo"], ["list", "models", "--exp"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "dashes" not in capsys.readouterr().err


@pytest.mark.parametrize("words", [
    "logger=none", "trainer=ddp  ", "data=folder data.root=DIR", "model.path=DIR", "--config-dir DIR",
])  # fmt: skip
def test_the_help_of_run_names_common_options(words, capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    described = capsys.readouterr().out.partition("key=, +key=")[2]
    assert sum(words in line for line in described.splitlines()) == 1


def test_an_experiment_of_the_papers_models_is_listed_with_both_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a question is one line
    assert main(["list", "exps"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name, model, small in (
        ("table1_llava15_7b", "llava15_7b", "embedded"),
        ("table2_llava15_13b", "llava15_13b", "embedded split=validation"),
        ("qwen25_vl_7b", "qwen25_vl_7b", "embedded_qwen"),
    ):
        start = next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        command = f"python -m zoo_exp run +exp={name}"
        assert lines[start + 1 : start + 3] == [
            f"{command}  # GPU",
            f"{command} model={small}  # any machine",
        ]
        assert compose([f"+exp={name}"]).model.name == model
    start = next(i for i, line in enumerate(lines) if line.startswith("sanity "))
    assert lines[start + 1] == "python -m zoo_exp run +exp=sanity"
    assert all(len(line) <= 95 for line in lines if line.startswith("python"))


def test_show_repeats_what_a_shell_takes(capsys):
    assert main(["show", "selector=zoo", "budget=<=64"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert shlex.split(first)[-2:] == ["selector=zoo", "budget=<=64"]


def test_an_error_of_the_runner_is_one_line_without_traceback(runner, capsys):
    runner.answer = InvalidValueError("the weights are broken")
    assert main(["run", "selector=full"]) == 2
    assert capsys.readouterr().err == "error: the weights are broken\n"


def test_a_failed_write_names_the_file(runner, capsys):
    runner.answer = PermissionError(13, "Permission denied", "/some/records.jsonl")
    assert main(["run", "selector=full"]) == 2
    assert capsys.readouterr().err == "error: /some/records.jsonl: Permission denied\n"


def test_a_bug_is_one_line_and_exit_code_1(runner, capsys):
    runner.answer = TypeError("a bug\nwith a second line")
    assert main(["run", "selector=full"]) == 1
    assert capsys.readouterr().err == (
        "error: unexpected TypeError: a bug. This is a bug in zoo_exp. Rerun with --debug for the traceback\n"
    )


def test_debug_shows_the_traceback_of_a_bug(runner, capsys):
    runner.answer = TypeError("a bug")
    assert main(["run", "selector=full", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_a_dataloader_worker_is_one_line(runner, capsys):
    traceback = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n'
    runner.answer = MissingFileError(
        f"Caught MissingFileError in DataLoader worker process 0.\nOriginal {traceback}"
        "zoo_exp.errors.MissingFileError: pope, sample 3: the image cannot be decoded\n"
    )
    assert main(["run", "selector=full"]) == 2
    assert capsys.readouterr().err == "error: pope, sample 3: the image cannot be decoded\n"


def test_a_file_in_the_place_of_the_output_folder(runner, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["run", "selector=full", f"out={tmp_path}/file/runs"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert runner.seen == []


def test_an_output_folder_that_cannot_be_written_to(runner, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main(["run", "selector=full", f"out={tmp_path}/runs"]) == 2
    assert "is not writable" in capsys.readouterr().err
    assert runner.seen == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
@pytest.mark.parametrize("key", ["out", "cache.features"])
def test_a_folder_in_which_nothing_can_be_made(key, runner, capsys):
    """Permissions do not say everything: root may write to /proc, and yet cannot."""
    assert main(["run", "selector=full", f"{key}=/proc/x"]) == 2
    err = capsys.readouterr().err
    assert f"{key}=/proc/x: /proc is not writable" in err
    assert f"give another folder: {key}=DIR" in err
    assert runner.seen == []


def test_checking_a_folder_for_write_access_leaves_nothing(runner, tmp_path):
    assert main(["run", "selector=full", f"out={tmp_path}/runs"]) == 0
    assert list(tmp_path.iterdir()) == []


def exit_after_interrupt():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904 - what Lightning's Trainer does


def test_ctrl_c_is_one_line(runner, capsys):
    runner.answer = KeyboardInterrupt()
    assert main(["run", "selector=full"]) == 130
    assert "same command to resume" in capsys.readouterr().err


def test_ctrl_c_is_recognised_behind_lightnings_exit(runner, capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda experiment: exit_after_interrupt())
    assert main(["run", "selector=full"]) == 130
    assert "records are saved" in capsys.readouterr().err


# A process whose runner writes the seed to a file, fails for seed 1, and waits for Ctrl-C for seed 9.
CHILD = """
import sys, time, types
import zoo_exp.evaluation
from pathlib import Path
def run(experiment):
    Path(experiment.out).mkdir(parents=True, exist_ok=True)
    Path(experiment.out, str(experiment.seed)).write_text("")
    if experiment.seed == 9: time.sleep(600)
    return 4 if experiment.seed == 1 else 0
module = types.ModuleType("zoo_exp.pipeline"); module.run = run
sys.modules[module.__name__] = zoo_exp.pipeline = module
"""


@pytest.fixture
def fake_processes(tmp_path, monkeypatch):
    """A start-up file that puts the runner of `CHILD` into every process of a sweep."""
    (tmp_path / "sitecustomize.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return tmp_path / "runs"


def test_a_sweep_runs_every_point_in_its_own_process_and_sums_up(fake_processes, capfd):
    assert main(["run", "selector=full", "seed=0,1,2", "-m", f"out={fake_processes}"]) == 4
    assert sorted(path.name for path in fake_processes.iterdir()) == ["0", "1", "2"]
    lines = capfd.readouterr().out.splitlines()
    end = lines.index("3 points, 1 failed")
    assert [line.split()[0] for line in lines[end + 1 : end + 4]] == ["ok", "exit", "ok"]


def test_ctrl_c_stops_a_sweep_after_the_point_has_stopped(fake_processes):
    command = [
        sys.executable,
        "-m",
        "zoo_exp",
        "run",
        "selector=full",
        "seed=9,2",
        "-m",
        f"out={fake_processes}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as sweep:
        while not (fake_processes / "9").exists():
            assert sweep.poll() is None
            time.sleep(0.1)
        sweep.send_signal(signal.SIGINT)  # to the parent alone: it passes it on
        _, err = sweep.communicate(timeout=600)
    assert sweep.returncode == 130
    assert "same command to resume" in err
    assert not (fake_processes / "2").exists()
