"""Atomic file writes."""

import os
import signal
import stat

import pytest

from zoo_exp.errors import MissingFileError
from zoo_exp.files import remove_leftovers, replaced, write_text


def test_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new" / "results.md"
    write_text(target, "first, longer text\n")
    write_text(target, "zweite ✓\n")
    assert target.read_bytes() == "zweite ✓\n".encode()
    assert os.listdir(target.parent) == ["results.md"]


def test_a_failure_half_way_keeps_the_old_file(tmp_path):
    target = tmp_path / "results.csv"
    target.write_text("old")

    def interrupted():
        with replaced(target) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.csv"]


def test_files_have_the_permissions_of_ordinary_ones(tmp_path):
    ordinary, ours = tmp_path / "a", tmp_path / "b"
    ordinary.write_text("")
    write_text(ours, "")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        MissingFileError, match=r"cannot write .*file/results\.csv: File exists.*choose a writable folder"
    ):
        write_text(tmp_path / "file" / "results.csv", "x")


def test_a_full_disk_names_the_file(tmp_path):
    def full():
        with replaced(tmp_path / "results.csv"):
            raise OSError(28, "No space left on device")

    with pytest.raises(
        MissingFileError, match=r"cannot write .*results\.csv: No space left on device\. Free some space"
    ):
        full()
    assert os.listdir(tmp_path) == []


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path):
    target = tmp_path / "inner" / "records.jsonl"
    child = os.fork()
    if child == 0:
        with replaced(target):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(target.parent.iterdir())) == 1
    with replaced(tmp_path / "inner" / "masks.jsonl") as file:
        file.write(b"whole")
        assert remove_leftovers(tmp_path) == 1
    assert os.listdir(target.parent) == ["masks.jsonl"]
    assert (target.parent / "masks.jsonl").read_bytes() == b"whole"
    assert remove_leftovers(tmp_path) == 0


def test_a_name_as_long_as_a_file_system_takes_can_be_written(tmp_path):
    write_text(tmp_path / ("x" * 200), "whole")
    assert (tmp_path / ("x" * 200)).read_text() == "whole"
