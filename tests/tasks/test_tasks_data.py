"""Rows from a folder, from a mocked hub and from the package, and errors for invalid data."""

from io import BytesIO

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.tasks.check import check
from zoo_exp.tasks.data import load
from zoo_exp.tasks.images import ImageFile, decode_image, located


def png(color="red", size=(6, 4)):
    buffer = BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def pope(i, **other):
    row = {
        "question_id": str(i),
        "question": f"Is there a thing {i}?",
        "answer": "yes",
        "category": "random",
        "image_source": f"i{i // 2}",
        "image": png(),
    }
    return {**row, **other}


def mme(image, answer="Yes"):
    name = f"color/{image}.png"
    return {"question_id": name, "question": answer, "answer": answer, "category": "color", "image": png()}


def write(path, rows, group=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def test_a_folder_of_files_is_one_table(tmp_path):
    write(tmp_path / "pope" / "data" / "test-00000-of-00002.parquet", [pope(i) for i in range(5)])
    write(tmp_path / "pope" / "data" / "test-00001-of-00002.parquet", [pope(i) for i in range(5, 8)])
    write(tmp_path / "pope" / "Full" / "random-00000-of-00001.parquet", [pope(99)])
    task = tasks.get("pope")
    rows = load(task, tmp_path)
    assert [task.sample_id(row) for row in rows] == [f"random/{i}" for i in range(8)]
    assert [rows[i]["row"] for i in (7, 0, 3, 3)] == [7, 0, 3, 3]
    assert task.images(rows[6])[0].getpixel((0, 0)) == (255, 0, 0)
    assert len(load(task, tmp_path, limit=3)) == 3
    assert [row["row"] for row in rows[2:4]] == [2, 3]
    subset = tasks.get("pope_random")  # another configuration and split of the same folder
    assert [subset.sample_id(row) for row in load(subset, tmp_path)] == ["random/99"]


def test_sample_ids_are_known_without_images(tmp_path):
    write(tmp_path / "pope" / "test.parquet", [pope(i) for i in range(5)])
    write(tmp_path / "mme" / "test.parquet", [mme(i, answer) for i in range(2) for answer in ("Yes", "No")])
    gqa_folder(tmp_path)
    for name in ("pope", "mme", "gqa"):
        task = tasks.get(name)
        rows = load(task, tmp_path, limit=2)
        assert rows.sample_ids(task) == [task.sample_id(row) for row in rows]
        assert not any("image" in row for row in rows.table.texts())


def test_a_folder_of_the_tasks_own_wins(tmp_path):
    write(tmp_path / "pope" / "a.parquet", [pope(1)])
    write(tmp_path / "pope_random" / "a.parquet", [pope(2)])
    task = tasks.get("pope_random")
    assert task.sample_id(load(task, tmp_path)[0]) == "random/2"


def test_a_limit_counts_units(tmp_path):
    write(tmp_path / "mme" / "test.parquet", [mme(i, answer) for i in range(4) for answer in ("Yes", "No")])
    task = tasks.get("mme")
    assert [len(load(task, tmp_path, limit=n)) for n in (1, 2, 3, 4)] == [2, 4, 6, 8]


def test_rotations_that_are_not_neighbours_are_one_unit(tmp_path):
    """The official MMBench file lists all questions first, and their rotations after them."""
    row = {"question": "q", "hint": "nan", "answer": "A", **dict.fromkeys("ABCD", "x"), "category": "c"}
    rows = [{**row, "index": turn * 1_000_000 + n, "image": png()} for turn in range(3) for n in range(5)]
    write(tmp_path / "mmbench" / "dev.parquet", rows)
    task = tasks.get("mmbench_en_dev_static")
    found = load(task, tmp_path, limit=2)
    assert [row["index"] for row in found] == [0, 1, 1_000_000, 1_000_001, 2_000_000, 2_000_001]
    assert [row["row"] for row in found] == [0, 1, 5, 6, 10, 11]


def test_fewer_units_than_the_limit_are_an_error(tmp_path):
    write(tmp_path / "mme" / "test.parquet", [mme(i, answer) for i in range(4) for answer in ("Yes", "No")])
    with pytest.raises(
        InvalidValueError, match=r"mme has 4 units .*, fewer than limit=5: give limit=4 or less"
    ):
        load(tasks.get("mme"), tmp_path, limit=5)
    assert len(load(tasks.get("mme"), tmp_path, limit=5, fewer=True)) == 8
    assert len(load(tasks.get("mme"), tmp_path, limit=3, fewer=True)) == 6
    with pytest.raises(InvalidValueError, match=r"embedded_gqa has 500 questions, fewer than limit=501"):
        load(tasks.get("embedded_gqa"), limit=501)


@pytest.mark.parametrize(("family", "size"), [("gqa", 1), ("mme", 2), ("mmbench", 4)])
def test_a_limit_of_embedded_tasks_counts_units(family, size):
    task = tasks.get(f"embedded_{family}")
    rows = load(task, limit=130)
    assert len(rows) == 130 * size
    assert len({row["scene"] for row in rows}) == 130


def test_only_the_tasks_rows_are_kept_and_numbered_as_in_the_split(tmp_path):
    row = {**{f"choice_{x}": x for x in "abcd"}, "question": "q", "answer": "A", "data_id": "d"}
    rows = [
        {
            **row,
            "question_id": str(i),
            "data_type": kind,
            "image": [png(), png("blue")][: 1 + (kind == "video")],
        }
        for i, kind in enumerate(("video", "image", "video", "image"))
    ]
    write(tmp_path / "seedbench" / "test.parquet", rows)
    images, both = tasks.get("seedbench_image"), tasks.get("seedbench")
    assert [(r["row"], r["question_id"]) for r in load(images, tmp_path)] == [(1, "1"), (3, "3")]
    assert [len(both.images(r)) for r in load(both, tmp_path)] == [2, 1, 2, 1]


def gqa_folder(root, image_ids=("a", "b")):
    questions = [{"id": str(i), "imageId": "ab"[i % 2], "question": "q", "answer": "yes"} for i in range(4)]
    write(root / "gqa/testdev_balanced_instructions/testdev-00000-of-00001.parquet", questions)
    images = [{"id": name, "image": png("red" if name == "a" else "blue")} for name in image_ids]
    write(root / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet", images)


def test_gqa_images_are_joined(tmp_path):
    gqa_folder(tmp_path)
    task = tasks.get("gqa")
    colors = [task.images(row)[0].getpixel((0, 0)) for row in load(task, tmp_path)]
    assert colors == [(255, 0, 0), (0, 0, 255)] * 2


def test_a_gqa_image_that_is_not_there_is_named(tmp_path):
    gqa_folder(tmp_path, image_ids=("a",))
    rows = load(tasks.get("gqa"), tmp_path)
    with pytest.raises(MissingFileError, match="row 1 shows the image 'b'"):
        rows[1]


def test_embedded_rows_need_no_folder(tmp_path):
    pytest.importorskip("zoo_exp.embedded.benchmarks")
    task = tasks.get("embedded_mme")
    assert len(load(task, tmp_path / "nowhere", limit=3)) == 6  # three pairs
    assert load(task, limit=4)[3]["row"] == 3


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(InvalidValueError, match=f"limit={limit}: give 1 or more"):
        load(tasks.get("pope"), limit=limit)


def test_a_missing_folder_is_refused_with_the_download_command(tmp_path):
    with pytest.raises(MissingFileError) as caught:
        load(tasks.get("pope"), tmp_path)
    message = str(caught.value)
    assert (
        f"hf download lmms-lab-encoder/POPE --repo-type dataset --revision main --local-dir {tmp_path}/pope"
        in message
    )
    assert f"data check pope --root {tmp_path}" in message
    (tmp_path / "pope").mkdir()
    with pytest.raises(MissingFileError, match=r"no parquet file below .*hf download"):
        load(tasks.get("pope"), tmp_path)


def test_bad_tables_are_named(tmp_path):
    task = tasks.get("pope")
    file = tmp_path / "pope" / "test.parquet"
    write(file, [{k: v for k, v in pope(1).items() if k not in ("answer", "image")}])
    with pytest.raises(InvalidValueError, match=r"lacks the column\(s\) answer, image; it has question_id"):
        load(task, tmp_path)
    pq.write_table(pa.Table.from_pylist([pope(1)]).slice(0, 0), file)
    with pytest.raises(InvalidValueError, match="the file has no rows"):
        load(task, tmp_path)
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(MissingFileError, match=r"no readable parquet file .*download it again"):
        load(task, tmp_path)
    file.write_bytes(b"")
    with pytest.raises(MissingFileError, match="no readable parquet file"):
        load(task, tmp_path)


def test_a_folder_with_other_splits_is_refused_with_their_names(tmp_path):
    write(tmp_path / "pope" / "train-00000-of-00001.parquet", [pope(1)])
    with pytest.raises(InvalidValueError, match=r"has the split\(s\) train, but 'test' is needed"):
        load(tasks.get("pope"), tmp_path)


def test_files_with_different_columns_are_not_mixed(tmp_path):
    write(tmp_path / "pope" / "a.parquet", [pope(1)])
    write(tmp_path / "pope" / "b.parquet", [pope(2, extra=1)])
    with pytest.raises(InvalidValueError, match=r"differ in the columns extra"):
        load(tasks.get("pope"), tmp_path)


def test_a_corrupt_image_names_its_sample(tmp_path):
    write(tmp_path / "pope" / "a.parquet", [pope(1, image={"bytes": png()["bytes"][:30], "path": None})])
    task = tasks.get("pope")
    row = load(task, tmp_path)[0]
    with pytest.raises(MissingFileError, match=r"pope, sample random/1: the image cannot be decoded"):
        task.images(row)
    with pytest.raises(MissingFileError, match="cannot be decoded"):
        check(task, tmp_path)
    with pytest.raises(InvalidValueError, match="pope, sample 3: expected an image, got NoneType"):
        decode_image({"bytes": None, "path": None}, "pope, sample 3")


def test_any_kind_of_image_is_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png("blue")["bytes"])
    for value in (
        png("blue"),
        png("blue")["bytes"],
        ImageFile(str(path), (tmp_path,)),
        located({"path": "a.png", "bytes": None}, (tmp_path,)),
        Image.open(path).convert("P"),
    ):
        image = decode_image(value, "here")
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (0, 0, 255))


def hub(monkeypatch, answer):
    calls = []

    def load_dataset(repo, config, split, revision):
        calls.append((repo, config, split, revision))
        return answer(config)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_hub_is_asked_for_the_pinned_split(monkeypatch):
    features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})

    def answer(config):
        if config.endswith("images"):
            table = {"id": ["a", "b"], "image": [png(), png("blue")]}
            return datasets.Dataset.from_dict(table, features=features)
        table = {"id": ["1"], "imageId": ["b"], "question": ["q"], "answer": ["yes"]}
        return datasets.Dataset.from_dict(table)

    calls = hub(monkeypatch, answer)
    task = tasks.get("gqa")
    rows = load(task)
    assert task.images(rows[0])[0].getpixel((0, 0)) == (0, 0, 255)
    assert [call[1] for call in calls] == ["testdev_balanced_instructions", "testdev_balanced_images"]
    assert {(call[0], call[2], call[3]) for call in calls} == {("lmms-lab-encoder/GQA", "testdev", "main")}


def test_hub_images_stay_encoded_until_they_are_needed(monkeypatch):
    row = {**{f"choice_{x}": x for x in "abcd"}, "question": "q", "answer": "A", "question_id": "1"}
    row |= {"data_type": "image", "image": [png()]}
    features = datasets.Features(
        {name: datasets.Value("string") for name in row if name != "image"}
        | {"image": datasets.List(datasets.Image())}
    )
    hub(monkeypatch, lambda config: datasets.Dataset.from_list([row], features=features))
    task = tasks.get("seedbench_image")
    rows = load(task)
    (loaded,) = rows
    assert rows.sample_ids(task) == ["1"]
    assert isinstance(loaded["image"][0]["bytes"], bytes)
    assert task.images(loaded)[0].size == (6, 4)


def test_an_unreachable_hub_gives_the_download_command(monkeypatch):
    def answer(config):
        raise ConnectionError("no route to host")

    hub(monkeypatch, answer)
    with pytest.raises(MissingFileError) as caught:
        load(tasks.get("mmbench_en_test"))
    message = str(caught.value)
    assert "lmms-lab-encoder/MMBench (configuration en, split test, revision main)" in message
    assert "ConnectionError: no route to host" in message
    assert "hf download lmms-lab-encoder/MMBench" in message


def test_check_reports_rows_columns_checksum_and_an_image(tmp_path):
    file = write(tmp_path / "pope" / "test.parquet", [pope(i) for i in range(3)])
    report = check(tasks.get("pope"), tmp_path)
    assert (report.rows, report.expected_rows, report.complete) == (3, 9000, False)
    assert "image_source" in report.columns
    assert report.image_size == (6, 4)
    assert len(report.checksum) == 64
    assert check(tasks.get("pope"), tmp_path).checksum == report.checksum
    write(file, [pope(i) for i in range(4)])
    assert check(tasks.get("pope"), tmp_path).checksum != report.checksum
