"""Every configuration file composes, names things that exist, and starts with the line that explains it."""

import shlex
from dataclasses import fields

import pytest
import yaml

from zoo_exp import selectors, tasks
from zoo_exp.config import ArmConfig, compose, folders
from zoo_exp.config.compose import run_config

FILES = {
    group: folders.choices(group, folders.search_path())
    for group in ("model", "selector", "task", "data", "trainer", "engine", "logger", "exp")
}


def every(group):
    return sorted(FILES[group])


def test_every_group_has_files():
    assert all(FILES.values())
    assert set(FILES) == {path.name for path in folders.built_in().iterdir() if path.is_dir()} - {
        "local",
        "__pycache__",
    }


@pytest.mark.parametrize(
    "path", [path for files in FILES.values() for path in files.values()], ids=lambda p: p.stem
)
def test_the_first_line_describes_the_file(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 10


@pytest.mark.parametrize("group", ["data", "trainer", "engine", "logger"])
def test_every_choice_composes(group):
    for name in every(group):
        extra = ["data.root=somewhere"] if (group, name) == ("data", "folder") else []
        assert run_config([f"{group}={name}", *extra])


def of_model(name):
    """Overrides that choose a model; `hub` is any checkpoint and wants a path."""
    return [f"model={name}", *(["model.path=somewhere", "model.family=llava"] if name == "hub" else [])]


@pytest.mark.parametrize("name", every("model"))
def test_every_model_composes_with_a_whole_experiment(name):
    experiment = compose(["+exp=ablation_fusion", *of_model(name)])
    assert experiment.model.name == name
    assert len(experiment.model.budgets) >= 2
    assert len(experiment.tasks) == 9
    assert not experiment.model.trust_remote_code


@pytest.mark.parametrize("name", every("selector"))
def test_every_preset_composes(name):
    content = yaml.safe_load(FILES["selector"][name].read_text())
    assert set(content) <= {field.name for field in fields(ArmConfig)}
    assert {arm.selector for arm in compose([f"selector={name}", "budget=16"]).arms} == {content["selector"]}


@pytest.mark.parametrize("name", [name for name in selectors.available() if name not in ("full", "blind")])
def test_every_selector_composes_by_its_name(name):
    assert {arm.selector for arm in compose([f"selector={name}", "budget=16"]).arms} == {name}


@pytest.mark.parametrize("name", every("task"))
def test_every_set_of_tasks_names_tasks_and_is_no_task_itself(name):
    assert set(compose(["selector=full", f"task={name}"]).tasks) <= set(tasks.available())
    assert name not in tasks.available()


@pytest.mark.parametrize("name", every("exp"))
def test_the_first_line_of_an_experiment_is_the_command_that_runs_it(name):
    first = FILES["exp"][name].read_text().splitlines()[0]
    command = shlex.split(first.removeprefix("# "))
    assert command[:4] == ["python", "-m", "zoo_exp", "run"]
    assert command[4] == f"+exp={name}"
    experiment = compose(command[4:])
    assert experiment.name == name
    assert experiment.question
    assert experiment.cells()
