"""Whole files or nothing."""

import os
import stat

import pytest

from zoo_exp.errors import MissingFileError
from zoo_exp.report.files import atomic_path, write_text_atomic


def test_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "results.md"
    write_text_atomic(target, "first, longer text\n")
    write_text_atomic(target, "zweite ✓\n")
    assert target.read_bytes() == "zweite ✓\n".encode()
    assert os.listdir(target.parent) == ["results.md"]


def test_a_failure_half_way_keeps_the_old_file(tmp_path):
    target = tmp_path / "results.csv"
    target.write_text("old")

    def interrupted():
        with atomic_path(target) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.csv"]


def test_files_have_the_permissions_of_ordinary_ones(tmp_path):
    ordinary, ours = tmp_path / "a", tmp_path / "b"
    ordinary.write_text("")
    write_text_atomic(ours, "")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingFileError, match=r"cannot write .*file/results\.csv.*out=DIR"):
        write_text_atomic(tmp_path / "file" / "results.csv", "x")
