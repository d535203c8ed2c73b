"""Errors of data workers, other libraries and broken pipes end in one line with task, sample and file."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib

import lightning
import omegaconf
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import warm
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from zoo_exp.cli import main
from zoo_exp.cluster import status
from zoo_exp.config import compose
from zoo_exp.errors import (
    InvalidValueError,
    MissingFileError,
    UnexpectedError,
    UnknownNameError,
    ZooExpError,
    as_ours,
)
from zoo_exp.evaluation.sample_batches import Batch, Failure, Guarded, Sample, make_loader, opened


def jpeg():
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def bomb(width=30000, height=30000):
    """A PNG whose header says 900 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def dataset(folder, *images):
    """POPE's columns with some images; the folder for `data.root`."""
    target = folder / "data" / "pope"
    target.mkdir(parents=True)
    ids = [str(number) for number in range(1, 1 + len(images))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {
        "id": ids, "question_id": ids, "question": ["Is it?"] * len(ids), "answer": ["yes"] * len(ids),
        "category": ["random"] * len(ids), "image_source": ids,
        "image": pa.array([{"bytes": image, "path": None} for image in images], kind),
    }  # fmt: skip
    pq.write_table(pa.table(table), target / "test-00000-of-00001.parquet")
    return folder / "data"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("bad", [jpeg()[:500], bomb(), b"<html>", b""], ids=["cut", "bomb", "html", "empty"])
def test_a_bad_image_is_one_line_with_task_sample_and_file(tmp_path, capsys, bad, workers):
    command = [
        "selector=[full,zoo]", "budget=16", "task=pope", "logger=none", "data=folder", f"out={tmp_path}/out",
        f"data.root={dataset(tmp_path, jpeg(), bad)}", f"data.workers={workers}", "model.batch_size=1", "limit=null",
        "trainer=cpu",
    ]  # fmt: skip
    assert main(["run", *command]) == 2
    shown = capsys.readouterr().err.splitlines()
    (line,) = [line for line in shown if not line.startswith("W&B")]
    assert line.startswith("error: pope, sample random/2")
    assert "test-00000-of-00001.parquet, row 1" in line
    experiment = compose(command)
    noted = json.loads((experiment.run_dir / "cells" / "pope.json").read_text())
    assert (noted["state"], f"error: {noted['error']}") == ("failed", line)
    (row,) = status.rows(experiment, {})
    assert (row.state, row.note) == ("failed", noted["error"])
    assert row.answers == "2/4"  # the question before it is recorded


class Raises(Dataset):
    """A data set whose samples raise what `make` makes."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 1

    def __getitem__(self, place):
        raise self.make()


def unknown():
    return UnknownNameError("selector", "zo", ["zoo", "full"], "See list selectors.")


@pytest.mark.parametrize(
    "make", [unknown, lambda: InvalidValueError("x=1: give 2"), lambda: MissingFileError("no file y")]
)
def test_every_error_of_ours_crosses_processes_whole(make):
    error = make()
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    with pytest.raises(type(error)) as caught:  # as torch makes it again from one argument
        list(DataLoader(Raises(make), num_workers=1))
    assert str(as_ours(caught.value)) == str(error)
    failure = pickle.loads(pickle.dumps(Failure.of(error, "pope, sample 1")))
    with pytest.raises(type(error), match="pope, sample 1: ") as caught:
        opened(failure)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "text", "expected"),
    [
        ("pope, row 0", "pope, sample a: no answer", "pope, sample a: no answer"),
        ("pope, row 0", "pope: no answer", "pope, row 0: no answer"),
        ("pope, sample a", "pope, sample a: no answer", "pope, sample a: no answer"),
        ("pope, row 0", "no answer", "pope, row 0: no answer"),
        ("pope, row 0", "pope_random, sample a: x", "pope, row 0: pope_random, sample a: x"),
    ],
)
def test_every_name_stands_once_in_a_message(where, text, expected):
    assert Failure.of(InvalidValueError(text), where).message == expected


def collate(samples):
    for sample in samples:
        if sample.id == "bad":
            raise KeyError("image")
    return Batch(samples, {})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_worker_names_the_sample_of_the_batch(workers):
    class Rows:
        def __getitem__(self, number):
            return {"id": ["a", "bad", "c"][number]}

    class Task:
        name = "mytask"
        kinds = {}  # noqa: RUF012

        def sample_id(self, doc):
            return doc["id"]

        def prompt(self, doc, model_family):
            return "?"

        def reference(self, doc):
            return "!"

        def image_name(self, doc):
            return doc["id"]

    from zoo_exp.evaluation.sample_batches import Pending

    loader = make_loader(Pending(Task(), Rows(), [0, 2, 1]), collate, 2, workers)
    whole, failed = list(loader)
    assert [sample.id for sample in opened(whole).samples] == ["a", "c"]
    with pytest.raises(UnexpectedError) as caught:
        opened(failed)
    assert str(caught.value) == "mytask, sample bad: KeyError: 'image'"
    assert "Traceback" in "".join(caught.value.__notes__)


def test_a_batch_that_fails_as_a_whole_names_its_samples():
    def together(samples):
        if len(samples) > 1:
            raise ValueError("lengths differ")
        return Batch(samples, {})

    found = Guarded(together, "t")([Sample(n, str(n), {}) for n in range(5)])
    assert found.message == "t, samples 0, 1, 2 and 2 more: ValueError: lengths differ"


def of(make):
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        make()
    return caught.value


def raises(error):
    raise error


FOREIGN = {
    "Pillow": lambda: PIL.Image.open(io.BytesIO(b"no image")),
    "Pillow's bomb": lambda: raises(PIL.Image.DecompressionBombError("900000000 pixels")),
    "pyarrow": lambda: pq.read_table(pa.BufferReader(b"no parquet")),
    "yaml": lambda: yaml.safe_load("a: [1"),
    "OmegaConf": lambda: omegaconf.OmegaConf.create({"a": "${b}"}).a,
    "Lightning": lambda: lightning.Trainer(accelerator="quantum", logger=False),
    "Lightning's own": lambda: raises(MisconfigurationException("no\nsuch strategy")),
    "transformers": lambda: transformers.AutoConfig.for_model("no_such_model"),
    "torch's memory": lambda: raises(torch.OutOfMemoryError("CUDA out of memory")),
    "memory": lambda: raises(MemoryError()),
    "disk": lambda: raises(OSError(28, "No space left on device")),
}


@pytest.mark.parametrize("library", FOREIGN)
def test_a_complaint_of_another_library_is_one_line_for_the_user(library):
    error = as_ours(of(FOREIGN[library]), "pope, sample 1")
    assert isinstance(error, ZooExpError)
    assert str(error).startswith("pope, sample 1: ")
    assert len(str(error)) > len("pope, sample 1: ") + 5
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "make",
    [lambda: {}["image"], lambda: raises(RuntimeError("a\nb")), lambda: raises(ValueError("x")), lambda: 1 / 0,
     lambda: torch.zeros(2) @ torch.zeros(3)],
)  # fmt: skip
def test_everything_unforeseen_is_a_bug_in_one_line(make):
    error = as_ours(of(make))
    assert isinstance(error, UnexpectedError)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("lines", [0, 1])
def test_a_run_whose_reader_leaves_is_quiet_and_completes(tmp_path, lines):
    """`run | head`: exit code 0, nothing on standard error, and the tables are there."""
    code = (
        "import sys; from zoo_exp.cli import entry;"
        "sys.argv = ['zoo_exp', 'run', 'selector=[full,zoo]', 'budget=16', 'task=embedded_pope', 'limit=2',"
        f"'logger=none', 'trainer=cpu', 'out={tmp_path}']; entry()"
    )
    run = warm.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(lines):
        run.stdout.readline()
    run.stdout.close()
    shown = run.stderr.read()
    assert (run.wait(), shown) == (0, b"")
    assert len(list(tmp_path.glob("*/*/results.json"))) == 1


def test_a_listing_whose_reader_leaves_is_quiet():
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-m", "zoo_exp", "list", "tasks"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (run.returncode, run.stderr) == (0, b"")
