"""Images and files of data sets are untrusted: only ordinary formats, inside the data folder, of bounded size."""

import os
import random
import stat
import struct
import zlib
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cpu_clock import cpu_seconds
from datasets import Image as Feature
from PIL import Image

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.tasks.data import load
from zoo_exp.tasks.images import FORMATS, MAX_PIXELS, MAX_RATIO, MAX_SIDE, ImageFile, decode_image

WHERE = "pope, sample random/1"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=40, height=30, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind, data):
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) & 0xFFFFFFFF)
    )


def claimed_png(width, height, data=b"\0" * 99, extra=b""):
    """A PNG file that claims a size, whatever it holds."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def one_line(error):
    assert isinstance(error, ZooExpError)
    assert "\n" not in str(error)
    assert str(error).startswith(WHERE)


def folder_with(root, image, name="pope"):
    """A data root with one POPE row that has this image value; returns the task and its row."""
    kind = (
        pa.string() if isinstance(image, str) else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    texts = {
        "question_id": "1",
        "question": "Is it?",
        "answer": "yes",
        "category": "random",
        "image_source": "a",
    }
    table = pa.table({**{key: [value] for key, value in texts.items()}, "image": pa.array([image], kind)})
    (root / name).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, root / name / "test-00000-of-00001.parquet")
    task = tasks.get("pope")
    return task, load(task, root)[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_usual_formats_are_read(kind):
    image = noise()
    got = decode_image(encoded(image, kind), WHERE)
    assert (got.mode, got.size) == ("RGB", image.size)
    if kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(np.asarray(got), np.asarray(image))


def other_formats():
    Image.init()
    for kind in sorted(set(Image.SAVE) - set(FORMATS)):
        for mode in ("RGB", "L", "1"):
            try:
                yield kind, encoded(noise().convert(mode), kind)
            except Exception:
                continue
            break


@pytest.mark.parametrize(("kind", "data"), [pytest.param(k, d, id=k) for k, d in other_formats()])
def test_every_other_format_that_pillow_writes_is_refused(kind, data):
    if kind == "MPO":
        assert decode_image(data, WHERE).size == (40, 30)  # an MPO file with one image is a JPEG file
        return
    with pytest.raises(MissingFileError, match="not PNG, JPEG, WEBP, GIF, BMP, TIFF, or damaged") as caught:
        decode_image(data, WHERE)
    one_line(caught.value)


def test_no_external_program_is_started(tmp_path, monkeypatch):
    """Pillow hands EPS files to Ghostscript: a data set would run PostScript on this machine."""
    started = tmp_path / "started"
    for name in ("gs", "gswin32c", "djpeg", "ppmquant"):
        stand_in = tmp_path / name
        stand_in.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
        stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for data in (EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + b"\xff\xff" + EPS):
        with pytest.raises(MissingFileError):
            decode_image(data, WHERE)
    assert not started.exists()


@pytest.mark.parametrize(
    "data",
    [
        claimed_png(40000, 40000),
        claimed_png(2**31 - 1, 2**31 - 1),
        claimed_png(MAX_PIXELS // 8000 + 1, 8000),
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b",\0\0\0\0"
        + b"\xff\xff\xff\xff\0\2\2L\1\0;",
    ],
    ids=["png", "largest png", "just above", "bmp", "gif"],
)
def test_a_bomb_is_refused_by_its_size_before_anything_is_decoded(data):
    start = cpu_seconds()
    with pytest.raises(InvalidValueError, match=r"at most 64,000,000 are read") as caught:
        decode_image(data, WHERE)
    one_line(caught.value)
    assert cpu_seconds() - start < 5


def test_a_text_bomb_in_a_png_is_one_line():
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 70_000_000))
    with pytest.raises(MissingFileError, match="cannot be decoded") as caught:
        decode_image(claimed_png(8, 8, extra=text), WHERE)
    one_line(caught.value)


def damaged():
    """Every format cut short, with bytes changed, and with bytes from elsewhere."""
    generator = random.Random(0)
    for kind in FORMATS:
        whole = encoded(noise(), kind)
        for _ in range(12):
            yield whole[: generator.randrange(len(whole))]
            changed = bytearray(whole)
            for _ in range(generator.randrange(1, 30)):
                changed[generator.randrange(len(changed) // generator.choice((1, 8)))] = generator.randrange(
                    256
                )
            yield bytes(changed)
        yield whole[:20] + generator.randbytes(200)


def test_damaged_images_are_read_or_refused_in_one_line():
    refused = 0
    for data in damaged():
        start = cpu_seconds()
        try:
            assert decode_image(data, WHERE).mode == "RGB"
        except ZooExpError as error:
            one_line(error)
            refused += 1
        assert cpu_seconds() - start < 10
    assert refused > 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_datasets_turns_it(orientation, kind):
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :10] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {"bytes": encoded(Image.fromarray(pixels), kind, exif=exif), "path": None}
    reference = Feature().decode_example(stored)
    for value in (stored, Image.open(BytesIO(stored["bytes"])), reference):
        got = decode_image(value, WHERE)
        assert got.size == reference.size
        assert np.array_equal(np.asarray(got), np.asarray(reference.convert("RGB")))
        assert got.getexif().get(0x0112, 1) == 1  # nobody turns it again


def test_damaged_exif_data_leave_the_pixels_alone():
    image = noise()
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0",
    ):
        got = decode_image(encoded(image, "PNG", exif=exif), WHERE)
        assert np.array_equal(np.asarray(got), np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(kind):
    grey = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(32, 32)
    got = np.asarray(decode_image(encoded(Image.fromarray(grey), kind), WHERE))
    assert np.array_equal(got, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.float32([[0, 0.5, 1]]), [0, 128, 255]),
        (np.float32([[0, 128, 255]]), [0, 128, 255]),
        (np.float32([[0, 32896, 65535]]), [0, 128, 255]),
        (np.float32([[-1, np.nan, 1]]), [0, 128, 255]),
        (np.float32([[np.inf, 1e30, 0]]), [0, 255, 0]),
        (np.int32([[0, 200, 255]]), [0, 200, 255]),
        (np.int32([[0, 25700, 65535]]), [0, 100, 255]),
        (np.int32([[-(2**31), 0, 2**31 - 1]]), [0, 128, 255]),
        (np.int32([[7, 7, 7]]), [7, 7, 7]),
    ],
)
def test_wide_grey_values_are_scaled_to_their_range(values, expected):
    got = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF"), WHERE))
    assert got[0, :, 0].tolist() == expected


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (16_400, 300), (5000, 20)])
def test_extreme_shapes_are_resized_in_a_moment(size, caplog):
    start = cpu_seconds()
    got = decode_image(encoded(Image.new("RGB", size, (10, 200, 30))), WHERE)
    assert cpu_seconds() - start < 5
    assert max(got.size) <= min(MAX_SIDE, MAX_RATIO * min(got.size))
    assert min(got.size) == min(size)
    assert got.getcolors() == [(got.width * got.height, (10, 200, 30))]
    assert f"{WHERE}: the image of {size[0]} x {size[1]} pixels is resized" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (1000, 5), (7000, 2)])
def test_ordinary_shapes_keep_their_size(size):
    expected = size if max(size) <= 200 * min(size) else (400, 2)
    assert decode_image(Image.new("RGB", size), WHERE).size == expected


def test_paths_are_read_below_the_data_root_only(tmp_path):
    root, private = tmp_path / "data", tmp_path / "private.png"
    private.write_bytes(encoded(noise()))
    inside = root / "pope" / "images" / "a.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(encoded(noise()))
    (root / "shared.png").write_bytes(encoded(noise()))
    (inside.parent / "link.png").symlink_to(private)
    (inside.parent / "loop.png").symlink_to(inside.parent / "loop.png")
    os.mkfifo(inside.parent / "pipe.png")
    for path in ("images/a.png", str(inside), "shared.png", "images/../images/a.png"):
        for value in (path, {"bytes": None, "path": path}):
            task, row = folder_with(root, value)
            assert task.images(row)[0].size == (40, 30)
    outside = (
        str(private),
        "../../private.png",
        "images/link.png",
        "/etc/passwd",
        "/dev/zero",
        "../pope/../../private.png",
    )
    for path in outside:
        for value in (path, {"bytes": None, "path": path}):
            task, row = folder_with(root, value)
            with pytest.raises(InvalidValueError, match="leads out of the data folder") as caught:
                task.images(row)
            one_line(caught.value)
    for path in (
        "images/loop.png",
        "images/pipe.png",
        "images",
        "nowhere.png",
        "a\0b",
        "x" * 5000,
        "\n",
        ".",
    ):
        task, row = folder_with(root, {"bytes": None, "path": path})
        with pytest.raises(ZooExpError) as caught:
            task.images(row)
        one_line(caught.value)


def test_a_linked_benchmark_folder_is_part_of_the_root(tmp_path):
    """Users keep large data elsewhere and link it; that link is theirs, unlike links inside the data."""
    elsewhere = tmp_path / "disk" / "pope"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.png").write_bytes(encoded(noise()))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pope").symlink_to(elsewhere)
    task, row = folder_with(tmp_path / "data", "a.png")
    assert task.images(row)[0].size == (40, 30)


def test_bytes_win_over_a_path_and_a_bare_path_is_refused(tmp_path):
    task, row = folder_with(tmp_path, {"bytes": encoded(noise()), "path": "/etc/passwd"})
    assert task.images(row)[0].size == (40, 30)
    file = tmp_path / "a.png"
    file.write_bytes(encoded(noise()))
    for value in (str(file), {"path": str(file)}, {"path": str(file), "bytes": b""}):
        with pytest.raises(InvalidValueError, match="this data set is no folder of files") as caught:
            decode_image(value, WHERE)
        one_line(caught.value)
    assert decode_image(ImageFile("a.png", (tmp_path,)), WHERE).size == (40, 30)


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"bytes": None, "path": None}, {"bytes": 5}, True, "", 1.5]
)
def test_what_is_no_image_is_refused(value):
    with pytest.raises(ZooExpError) as caught:
        decode_image(value, WHERE)
    one_line(caught.value)
