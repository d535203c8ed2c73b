"""`run` on a data set of strangers: odd rows are answered, hostile ones are one line with task and sample."""

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from zoo_exp.cli import main
from zoo_exp.config import compose
from zoo_exp.runs import reading


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PLAIN = encoded(Image.new("RGB", (64, 64), (200, 30, 30)))


@pytest.fixture
def run(tmp_path, capsys):
    """Run POPE rows with these questions and images; exit code, lines on standard error, records."""

    def once(rows, workers=0):
        row = {"answer": "yes", "category": "random", "image_source": "a"}
        table = [
            {**row, "question_id": str(n), "question": question, "image": {"bytes": image, "path": path}}
            for n, (question, image, path) in enumerate(rows)
        ]
        kinds = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        names = [name for name in table[0] if name != "image"]
        columns = {name: [line[name] for line in table] for name in names}
        columns["image"] = pa.array([line["image"] for line in table], kinds)
        (tmp_path / "data" / "pope").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / "pope" / "test-00000-of-00001.parquet")
        overrides = [
            *(
                "selector=[full,zoo]",
                "budget=16",
                "task=pope",
                "logger=none",
                f"limit={len(rows)}",
                "data=folder",
            ),
            *(f"data.root={tmp_path / 'data'}", f"out={tmp_path / 'out'}", f"data.workers={workers}"),
        ]
        code = main(["run", *overrides])
        told = capsys.readouterr().err.strip().splitlines()
        return code, told, list(reading.records(compose(overrides).run_dir))

    return once


def test_odd_rows_are_answered(run):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [
        ("Is there an <image> tag in the page?", PLAIN, None),
        ("Is the photograph upright?", encoded(Image.new("RGB", (40, 80)), "JPEG", exif=exif), None),
        ("Is it grey?", encoded(Image.fromarray(np.full((30, 30), 40_000, np.uint16))), None),
        ("Is it long?", encoded(Image.new("RGB", (100_000, 1))), None),
        ("=cmd|' /C calc'!A0", PLAIN, "/etc/passwd"),
    ]
    code, _, records = run(rows)
    assert code == 0
    assert len(records) == 10
    assert {record["question"] for record in records} == {question for question, _, _ in rows}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("image", "path", "message"),
    [
        (PLAIN[:60], None, "the image cannot be decoded"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
            None,
            "not PNG, JPEG, WEBP, GIF, BMP, TIFF",
        ),
        (None, "/etc/passwd", "leads out of the data folder"),
        (None, "a\0b", "is no path of a file"),
    ],
)
def test_a_hostile_image_is_one_line_with_task_and_sample(run, image, path, message, workers):
    code, told, _ = run([("Is it?", PLAIN, None), ("Is it?", image, path)], workers)
    assert code == 2
    assert "Traceback" not in " ".join(told)
    assert told[-1].startswith("error: pope, sample random/1: ")
    assert message in told[-1]
