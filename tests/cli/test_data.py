"""`data check` on folders of benchmark files."""

from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo_exp.cli import main
from zoo_exp.rehearsal import made_data


def row(number, **changes):
    buffer = BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    doc = {"question_id": str(number), "question": "Is it?", "answer": "yes", "category": "random"}
    return {**doc, "image": image, **changes}


@pytest.fixture
def folder(tmp_path):
    """A root with three rows of POPE."""
    (tmp_path / "pope").mkdir()
    pq.write_table(pa.Table.from_pylist([row(i) for i in range(3)]), tmp_path / "pope" / "test.parquet")
    return tmp_path


def test_a_folder_is_described(folder, capsys):
    assert main(["data", "check", "pope", "--root", str(folder)]) == 0
    first = capsys.readouterr().out
    found = dict(line.split(maxsplit=1) for line in first.splitlines())
    assert found["rows"] == "3 of 9000"
    assert found["columns"].split(", ")[:5] == ["question_id", "question", "answer", "category", "image"]
    assert "6 x 4 pixels" in found["image"]
    assert len(found["sha256"].split()[0]) == 64
    assert "part of the benchmark" in first.splitlines()[-1]
    assert main(["data", "check", "pope", "--root", str(folder)]) == 0
    assert capsys.readouterr().out == first


def test_the_checksum_sees_a_changed_answer(folder, capsys):
    main(["data", "check", "pope", "--root", str(folder)])
    before = capsys.readouterr().out
    changed = [row(0), row(1), row(2, answer="no")]
    pq.write_table(pa.Table.from_pylist(changed), folder / "pope" / "test.parquet")
    main(["data", "check", "pope", "--root", str(folder)])
    after = capsys.readouterr().out
    different = [line.split()[0] for line in set(after.splitlines()) - set(before.splitlines())]
    assert different == ["sha256"]


def test_missing_rows_are_an_error_where_all_are_wanted(folder, capsys):
    assert main(["data", "check", "pope", "--root", str(folder), "--complete"]) == 2
    assert "pope has 3 of 9000 rows" in capsys.readouterr().err
    assert main(["data", "check", "embedded_pope", "--complete"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "complete"


def test_bad_data_is_one_message_and_exit_code_2(folder, capsys):
    def refused(*arguments):
        assert main(["data", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        return captured.err

    assert "Did you mean 'pope'" in refused("check", "popes")
    assert "Did you mean 'check'" in refused("chek", "pope")
    missing = refused("check", "gqa", "--root", str(folder / "nowhere"))
    assert f"gqa: no folder {folder}/nowhere/gqa. On a machine" in missing
    both = refused("check", "pope_random", "--root", str(folder / "nowhere"))
    assert f"no folder {folder}/nowhere/pope_random and none {folder}/nowhere/pope. On" in both
    assert "hf download lmms-lab-encoder/MME" in refused("check", "mme", "--root", str(folder))
    pq.write_table(pa.Table.from_pylist([row(0, image=None)]), folder / "pope" / "test.parquet")
    assert "expected an image" in refused("check", "pope", "--root", str(folder))
    damaged = row(0, image={"bytes": row(0)["image"]["bytes"][:30], "path": None})
    pq.write_table(pa.Table.from_pylist([damaged]), folder / "pope" / "test.parquet")
    assert "cannot be decoded" in refused("check", "pope", "--root", str(folder))
    lacking = {key: value for key, value in row(0).items() if key != "answer"}
    pq.write_table(pa.Table.from_pylist([lacking]), folder / "pope" / "test.parquet")
    assert "lacks the column(s) answer" in refused("check", "pope", "--root", str(folder))
    (folder / "pope" / "test.parquet").write_bytes(b"half a file")
    assert "no readable parquet file" in refused("check", "pope", "--root", str(folder))


def test_all_tasks_in_one_table(tmp_path, capsys):
    root = made_data.make(tmp_path, 2)
    assert main(["data", "check", "--all", "--root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 9
    (pope,) = [line.split() for line in lines if line.startswith("pope ")]
    assert pope == ["pope", "2", "9000", "336", "x", "336", "incomplete"]
    assert main(["data", "check", "--all", "--root", str(root), "--complete"]) == 2
    (root / "mme" / "data" / "test-00000-of-00001.parquet").write_bytes(b"damaged")
    assert main(["data", "check", "--all", "--root", str(root)]) == 2
    lines = capsys.readouterr().out.splitlines()
    (mme,) = [line for line in lines if line.startswith("mme ") and "error:" in line]
    assert "no readable parquet file" in mme


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all"], "data check --all --root DIR"),
        ([], "needs a task"),
        (["--all", "--root", "gone"], "no such folder"),
    ],
)
def test_all_needs_a_folder(arguments, message, capsys):
    assert main(["data", "check", *arguments]) == 2
    assert message in capsys.readouterr().err
