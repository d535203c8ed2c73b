"""Tables of data sets are untrusted: missing shards, damaged files and rows are named in one line."""

import random
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo_exp import tasks
from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.tasks.check import check
from zoo_exp.tasks.data import load


def pope_folder(root, rows=1):
    """A data root with one file of POPE rows; returns the task."""
    buffer = BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    texts = {"question": "Is it?", "answer": "yes", "category": "random", "image_source": "a"}
    image = {"bytes": buffer.getvalue(), "path": None}
    table = pa.Table.from_pylist([{**texts, "question_id": str(n), "image": image} for n in range(rows)])
    (root / "pope").mkdir()
    pq.write_table(table, root / "pope" / "test-00000-of-00001.parquet")
    return tasks.get("pope")


def one_line(call):
    """Whether the call is refused; anything else than one line of ours fails."""
    try:
        call()
    except ZooExpError as error:
        return "\n" not in str(error) or pytest.fail(f"more than one line: {error}")
    return False


def test_one_shard_of_three_is_not_the_benchmark(tmp_path):
    task = pope_folder(tmp_path)
    whole = tmp_path / "pope" / "test-00000-of-00001.parquet"
    for name, count in (
        ("test-00000-of-00003", 3),
        ("test-00002-of-00003-0a1b2c", 3),
        ("test-00001-of-00002", 2),
    ):
        part = whole.with_name(f"{name}.parquet")
        whole.rename(part)
        with pytest.raises(
            MissingFileError, match=rf"1 of the {count} files .* is missing.*hf download"
        ) as caught:
            load(task, tmp_path)
        assert "\n" not in str(caught.value)
        with pytest.raises(MissingFileError):
            check(task, tmp_path)
        part.rename(whole)
    assert len(load(task, tmp_path)) == 1


def test_damaged_parquet_files_are_one_line(tmp_path):
    task = pope_folder(tmp_path)
    file = tmp_path / "pope" / "test-00000-of-00001.parquet"
    whole, generator = file.read_bytes(), random.Random(1)
    refused = 0
    for turn in range(120):
        changed = bytearray(whole)
        if turn % 3:
            for _ in range(generator.randrange(1, 20)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
        else:
            del changed[generator.randrange(len(changed)) :]
        file.write_bytes(changed)
        refused += one_line(lambda: task.images(load(task, tmp_path)[0]))
        refused += one_line(lambda: load(task, tmp_path).sample_ids(task))
    assert refused > 120
    pq.write_table(pa.table({"image": pa.array([b"\xff\xfe"]).cast(pa.string(), safe=False)}), file)
    with pytest.raises(ZooExpError):
        load(task, tmp_path)


def change_rows(root, change):
    file = root / "pope" / "test-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_two_rows_with_one_id_are_an_error_of_data_check_and_run(tmp_path, capsys):
    task = pope_folder(tmp_path, rows=3)
    assert check(task, tmp_path).rows == 3
    change_rows(tmp_path, lambda rows: rows[2].update(question_id="0"))
    with pytest.raises(InvalidValueError, match=r"the first is row 2 with the id 'random/0' of row 0"):
        check(task, tmp_path)
    for command in (
        ["data", "check", "pope", "--root", str(tmp_path)],
        [
            "run",
            "selector=full",
            "task=pope",
            "data=folder",
            f"data.root={tmp_path}",
            "limit=3",
            f"out={tmp_path / 'out'}",
        ],
    ):
        assert main(command) == 2
        assert "pope: 1 rows have the sample id of another row" in capsys.readouterr().err


def test_a_value_of_a_wrong_type_is_named_before_the_run(tmp_path):
    task = pope_folder(tmp_path, rows=3)
    change_rows(tmp_path, lambda rows: [row.update(question=None) for row in rows[1:2]])
    with pytest.raises(
        InvalidValueError, match=r"pope, sample random/1: question must be a text, got NoneType"
    ):
        check(task, tmp_path)
