"""A scene of the embedded world as a file, and the embedded model, loaded once."""

import pytest

import zoo_exp
from zoo_exp.embedded.benchmarks import rows


@pytest.fixture(scope="session")
def embedded():
    return zoo_exp.load_model("embedded")


@pytest.fixture(scope="session")
def scene():
    return next(iter(rows("vqav2", limit=1)))["image"]


@pytest.fixture
def picture(scene, tmp_path, monkeypatch):
    """The path of the scene's file, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    scene.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"
