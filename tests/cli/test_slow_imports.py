"""A placeholder stands in for a slow package while another is loaded, and leaves no trace."""

import importlib
import sys

import pytest

from zoo_exp.slow_imports import import_without


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


def test_torchmetrics_finds_what_it_looks_for():
    """The name that it adds to scipy.signal on loading."""
    from pathlib import Path

    source = (Path(importlib.util.find_spec("torchmetrics").origin)).read_text()
    assert 'hasattr(scipy.signal, "hamming")' in source
