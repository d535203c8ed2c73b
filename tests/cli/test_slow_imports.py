"""A placeholder stands in for a slow package while another is loaded, and leaves no trace."""

import importlib
import subprocess
import sys

import pytest

from zoo_exp.slow_imports import import_without, later


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages `heavy.part` and `user`, which imports it on loading; forgotten afterwards."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text("")
    (tmp_path / "heavy" / "part.py").write_text("value = 42\n")
    (tmp_path / "user.py").write_text("import heavy.part\nfound = heavy.part.hamming\n")
    (tmp_path / "broken.py").write_text("import heavy.part\nraise OSError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("heavy", "heavy.part", "user", "broken"):
        sys.modules.pop(name, None)


def test_the_slow_package_is_imported_when_it_is_needed(packages):
    sys.modules["heavy"] = importlib.import_module("heavy")
    sys.modules["heavy"].part = None  # what a placeholder may not hide
    del sys.modules["heavy"].part
    (sys.modules["heavy"]).__getattr__ = lambda name: importlib.import_module(f"heavy.{name}")  # as scipy has
    assert import_without("user", "heavy.part", hamming=7).found == 7
    assert "heavy.part" not in sys.modules
    import heavy.part

    assert heavy.part.value == 42
    assert import_without("user", "heavy.part", hamming=8).found == 7  # loaded once


def test_an_error_leaves_no_placeholder(packages):
    with pytest.raises(OSError, match="no"):
        import_without("broken", "heavy.part")
    assert "heavy.part" not in sys.modules


def test_a_package_that_is_loaded_stays(packages):
    real = importlib.import_module("heavy.part")
    with pytest.raises(AttributeError, match="hamming"):
        import_without("user", "heavy.part", hamming=7)
    assert sys.modules["heavy.part"] is real


def test_a_module_is_loaded_when_something_is_looked_up_in_it(packages):
    """The package and its module; the names of the placeholders end with the block."""
    with later({"heavy": {}, "heavy.part": {"hamming": 7}}):
        user = importlib.import_module("user")
    assert user.found == 7
    assert not {"heavy", "heavy.part"} & set(sys.modules)
    assert user.heavy.part.value == 42
    assert not hasattr(user.heavy.part, "hamming")


def test_a_loaded_module_is_not_replaced(packages):
    real = importlib.import_module("heavy.part")
    with later({"heavy": {}, "heavy.part": {}}):
        assert importlib.import_module("heavy.part") is real


def test_metrics_are_imported_without_matplotlib_and_can_be_plotted():
    code = (
        "import sys; from zoo_exp.slow_imports import torchmetrics; m = torchmetrics()\n"
        "print('matplotlib' in sys.modules)\n"
        "import matplotlib; matplotlib.use('agg')\n"
        "metric = m.MeanMetric(); metric.update(1.0); figure, axes = metric.plot()\n"
        "print(type(figure).__module__, matplotlib.pyplot.Figure is type(figure))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["False", "matplotlib.figure", "True"], run.stderr


def test_torchmetrics_finds_what_it_looks_for():
    """The name that it adds to scipy.signal on loading."""
    from pathlib import Path

    source = (Path(importlib.util.find_spec("torchmetrics").origin)).read_text()
    assert 'hasattr(scipy.signal, "hamming")' in source
