"""A scene of the embedded world as a file, and the embedded model, loaded once."""

import pytest

import zoo_exp
from zoo_exp import tasks
from zoo_exp.tasks import data


@pytest.fixture(scope="session")
def embedded():
    return zoo_exp.load_model("embedded")


@pytest.fixture(scope="session")
def questions():
    """Three rows of a task of the embedded model."""
    rows = data.load(tasks.get("world2_vqav2"), None, 3)
    return [rows[number] for number in range(3)]


@pytest.fixture(scope="session")
def scene(questions):
    return tasks.get("world2_vqav2").images(questions[0])[0]


@pytest.fixture
def scene_file(scene, tmp_path, monkeypatch):
    """The path of the scene's file, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    scene.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"
