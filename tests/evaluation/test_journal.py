"""Journals: whatever kills the writer, every whole row that was written is read back, and nothing else is."""

import json
import resource
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.errors import ZooExpError
from zoo_exp.runs import journal
from zoo_exp.runs.journal import Journal

ROWS = [{"number": n, "text": "é\n" * n} for n in range(5)]


def written(folder, rows, cell="cell", rank=0):
    with Journal(folder, "records", cell, rank) as file:
        file.append(rows)
    return journal.journals(folder, "records")[-1]


def test_rows_come_back_as_they_were_and_are_on_disk_at_once(tmp_path):
    with Journal(tmp_path, "records", "cell") as file:
        file.append(ROWS[:2])
        assert list(journal.read(tmp_path, "records")) == ROWS[:2]
        file.append(ROWS[2:])
        assert list(journal.read(tmp_path, "records")) == ROWS


def test_every_rank_and_attempt_has_a_file_of_its_own(tmp_path):
    for rank in (0, 1, 0):
        written(tmp_path, ROWS, rank=rank)
    written(tmp_path, ROWS, cell="other")
    names = [path.name for path in journal.journals(tmp_path, "records")]
    assert names == [
        "records-cell-rank0-001.jsonl", "records-cell-rank0-002.jsonl", "records-cell-rank1-001.jsonl",
        "records-other-rank0-001.jsonl",
    ]  # fmt: skip
    assert len(journal.journals(tmp_path, "records", {"other"})) == 1
    assert journal.journals(tmp_path, "timings") == []


def test_two_writers_at_the_same_time_never_share_a_file(tmp_path):
    files = [Journal(tmp_path, "records", "cell") for _ in range(3)]
    for number, file in enumerate(files):
        file.append([{"writer": number}])
    assert [len(path.read_bytes().splitlines()) for path in journal.journals(tmp_path, "records")] == [
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
    assert not (tmp_path / journal.FOLDER).exists()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000))
def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    path = written(folder, ROWS)
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    assert list(journal.read(folder, "records")) == ROWS[:whole]


@pytest.mark.parametrize("garbage", [b"\x00\x01garbage\n", b"[1, 2]\n", b'{"half": \n', b"\n", b"\xff\xfe\n"])
def test_garbage_in_the_middle_is_named_and_the_rest_is_kept(tmp_path, caplog, garbage):
    path = written(tmp_path, ROWS)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], garbage, *lines[2:]]))
    assert list(journal.read(tmp_path, "records")) == ROWS
    assert [record.message for record in caplog.records] == [
        f"{path}, line 3 is damaged: it is left out, and what it held is made again"
    ]


def test_damage_can_be_collected_instead_of_logged(tmp_path, caplog):
    path = written(tmp_path, ROWS)
    path.write_bytes(b"?\n" + path.read_bytes())
    found = []
    assert [line.number for line in journal.lines(path, found)] == [2, 3, 4, 5, 6]
    assert len(found) == 1
    assert not caplog.records


def test_lines_say_where_they_are(tmp_path):
    path = written(tmp_path, ROWS)
    data = path.read_bytes()
    for line in journal.lines(path):
        assert data[line.offset :].startswith(line.data)
        assert json.loads(line.data) == line.row


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
        ZooExpError, match=r"cannot write .*: File too large\. What was recorded is kept; make room"
    ):
        file.append([{"text": "y" * 3000}])
    path = journal.journals(tmp_path, "records")[0]
    assert path.read_bytes().endswith(b"\n")
    assert list(journal.read(tmp_path, "records")) == kept
    file.append([{"number": 30}])  # room again: in a file of its own
    file.close()
    assert len(journal.journals(tmp_path, "records")) == 2
    assert len(list(journal.read(tmp_path, "records"))) == 31
