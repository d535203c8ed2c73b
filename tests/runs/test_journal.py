"""Journals: all complete rows can be read after any interruption, and nothing else."""

import resource
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.errors import ZooExpError
from zoo_exp.files import encode, read_lines
from zoo_exp.runs import folder
from zoo_exp.runs.journal import Journal

ROWS = [{"number": n, "text": "é\n" * n} for n in range(5)]


def written(run, rows, cell="cell", rank=0):
    with Journal(run, "records", cell, rank) as file:
        file.append(rows)
    return folder.journals(run, "records")[-1]


def read(run):
    """The rows of all journals, of whatever kind they are."""
    return [line.row for path in folder.journals(run, "records") for line in read_lines(path)]


def test_rows_come_back_as_they_were_and_are_on_disk_at_once(tmp_path):
    with Journal(tmp_path, "records", "cell") as file:
        file.append(ROWS[:2])
        assert read(tmp_path) == ROWS[:2]
        file.append(ROWS[2:])
        assert read(tmp_path) == ROWS


def test_every_rank_and_attempt_has_a_file_of_its_own(tmp_path):
    for rank in (0, 1, 0):
        written(tmp_path, ROWS, rank=rank)
    written(tmp_path, ROWS, cell="other")
    names = [path.name for path in folder.journals(tmp_path, "records")]
    assert names == [
        "records-cell-rank0-001.jsonl", "records-cell-rank0-002.jsonl", "records-cell-rank1-001.jsonl",
        "records-other-rank0-001.jsonl",
    ]  # fmt: skip
    assert len(folder.journals(tmp_path, "records", {"other"})) == 1
    assert folder.journals(tmp_path, "timings") == []


def test_two_writers_at_the_same_time_never_share_a_file(tmp_path):
    files = [Journal(tmp_path, "records", "cell") for _ in range(3)]
    for number, file in enumerate(files):
        file.append([{"writer": number}])
    assert [len(path.read_bytes().splitlines()) for path in folder.journals(tmp_path, "records")] == [
        1,
        1,
        1,
    ]
    for file in files:
        file.close()


def test_a_journal_without_rows_leaves_no_file(tmp_path):
    written_nothing = Journal(tmp_path, "records", "cell")
    written_nothing.append([])
    written_nothing.close()
    assert not (tmp_path / folder.JOURNALS).exists()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_gives_the_rows_that_are_whole(tmp_path_factory, cut):
    run = tmp_path_factory.mktemp("cut")
    path = written(run, ROWS)
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    ends = [len(b"".join(map(encode, ROWS[:n]))) for n in range(1, len(ROWS) + 1)]
    # A row of which only the line end is missing is whole.
    assert read(run) == ROWS[: sum(cut >= end - 1 for end in ends)]


@pytest.fixture
def small_files():
    """No file may grow beyond 4000 bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_named_and_leaves_whole_rows(tmp_path, small_files):
    kept = [{"number": n, "text": "x" * 70} for n in range(30)]
    file = Journal(tmp_path, "records", "cell")
    file.append(kept)
    with pytest.raises(
        ZooExpError,
        match=r"cannot write .*: File too large\. Records written so far are safe\. Free some space",
    ):
        file.append([{"text": "y" * 3000}])
    path = folder.journals(tmp_path, "records")[0]
    assert path.read_bytes().endswith(b"\n")
    assert read(tmp_path) == kept
    file.append([{"number": 30}])  # room again: in a file of its own
    file.close()
    assert len(folder.journals(tmp_path, "records")) == 2
    assert len(read(tmp_path)) == 31
