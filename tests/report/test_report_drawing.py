"""Figures are independent of the drawing process, and its errors are reported."""

import time

import pytest

from zoo_exp.errors import MissingFileError
from zoo_exp.report import drawing
from zoo_exp.report.build import build


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_figures_from_worker_processes_are_identical(make_whole_run, tmp_path):
    runs = [make_whole_run("one", tokens=True), make_whole_run("two")]
    here = build(runs, tmp_path / "here", draws=50)
    there = build(runs, tmp_path / "there", draws=50, processes=2)
    assert len(list((tmp_path / "here" / "figures").glob("*.svg"))) > 4
    assert files(here.parent) == files(there.parent)


@pytest.mark.parametrize("processes", [0, 1])
def test_figures_that_cannot_be_written_are_an_error(make_whole_run, tmp_path, processes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "figures").write_text("a file where a folder should be")
    with pytest.raises(MissingFileError, match="cannot write"):
        build([make_whole_run()], tmp_path / "out", draws=50, processes=processes)


def test_an_error_does_not_wait_for_drawing_processes():
    waiting = []

    def fail():
        with drawing.drawers(1) as pool:
            waiting.extend(pool.submit(time.sleep, 1) for _ in range(50))
            raise KeyError("elsewhere")

    with pytest.raises(KeyError):
        fail()
    assert sum(future.cancelled() for future in waiting) >= 45


@pytest.mark.parametrize(
    ("runs", "cores", "expected"), [(1, 8, 0), (2, 8, 0), (14, 2, 2), (14, 64, 4), (3, 64, 1)]
)
def test_processes_are_started_for_many_figures_only(monkeypatch, runs, cores, expected):
    monkeypatch.setattr(drawing.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert drawing.spare_processes(runs) == expected
