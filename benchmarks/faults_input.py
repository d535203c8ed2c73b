"""The bad input of `benchmarks/faults.py`: command lines, experiment files, images, tables and predictions."""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RUN = [
    "run",
    "selector=[full,zoo]",
    "budget=16",
    "task=embedded_pope",
    "limit=2",
    "logger=none",
    "trainer=cpu",
]
DEEP = "[" * 100_000 + "]" * 100_000


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        kind: what is bad.
        name: which case of it.
        arguments: of `python -m zoo_exp`, for a folder that the case may use.
        prepare: writes the files of the case into that folder.
        codes: exit codes that are right.
    """

    kind: str
    name: str
    arguments: Callable[[Path], list[str]]
    prepare: Callable[[Path], object] = lambda folder: None
    codes: tuple[int, ...] = (2,)


VALUES = {
    "budget": ["-1", "0", "abc", "1.5", "nan", "[16", "''", "101%", "-5%", "<=", "{a:1}", "null,", "1e400"],
    "limit": ["-1", "0", "abc", "1.5", "[1]", "99999999999999999999", "nan", "true"],
    "seed": ["abc", "1.5", "[1", "{}", "nan"],
    "model": ["emb", "''", "llava", "[embedded,nope]", "../x", "1"],
    "model.batch_size": ["0", "-3", "abc", "9223372036854775808", "1.5", "null"],
    "model.dtype": ["float33", "1", "''", "[a]"],
    "model.attention": ["flashh", "1", "''"],
    "model.path": ["/nowhere/at/all", "./nothing", "~/nothing", "a/b/c/d"],
    "model.layers": ["-1", "abc"],
    "model.weights": ["bad", "1"],
    "model.nothing": ["1"],
    "trainer": ["gpuu", "''"],
    "trainer.accelerator": ["quantum", "tpu", "1"],
    "trainer.devices": ["-2", "abc", "0", "[]"],
    "trainer.strategy": ["dddp", "ddp_spawn", "1"],
    "trainer.num_nodes": ["0", "-1", "abc"],
    "data": ["foldr", "1"],
    "data.workers": ["-1", "abc", "1.5"],
    "cache.limit_gb": ["nan", "inf", "-1", "1e300", "abc"],
    "logger": ["wandbb", "1"],
    "logger.mode": ["onlin", "1"],
    "selector": ["zo", "[full,zo]", "''", "[", "{}", "1", "[[full]]", "a.b:C", "os:system"],
    "selector.options.fusion": ["summ", "1", "[a]"],
    "selector.options.nothing": ["1"],
    "selector.seeds": ["0", "-1", "abc"],
    "task": ["pop", "[pope,pop]", "''", "[", "1", "glob(*", "{a}"],
    "name": ["../x", "..", ".", "''", "/abs", "a/b", "'a\\\\b'", '"a\tb"', "x" * 300],
    "out": ["", "/proc/nothing", "/dev/null", "/dev/null/x"],
    "question": ["${oc.env:NOT_SET_ANYWHERE}", "${nothing}", "${", "[1"],
    "+exp": ["nothing", "''", "../x", "[", "a,b"],
    "nothing": ["1", ""],
    "hydra": ["1", "{}"],
}
"""Values that each setting must refuse."""
LINES = [
    ["nothing"], ["--nothing"], ["run", "--nothing"], ["run", "selector"], ["run", "=1"], ["run", "==", "a"],
    ["run", "a=b=c"], ["run", "selector=full", "budget"], ["budget=16"], ["run", "\0"], ["run", "x=\ud800"],
    ["list"], ["list", "nothing"], ["list", "tasks", "more"], ["show", "exp=nothing"], ["show", "\n"],
    ["report"], ["report", "/nowhere"], ["report", "/dev/null"], ["report", "/"], ["score"], ["score", "pope"],
    ["score", "nothing", "x"], ["score", "pope", "/nowhere"], ["score", "pope", "/"], ["score", "pope", "/dev/null"],
    ["data"], ["data", "check"], ["data", "chek", "pope"], ["data", "check", "nothing"],
    ["data", "check", "pope", "--root", "/nowhere"], ["bench", "nothing=1"], ["bench", "batch=0"],
    ["bench", "batch=abc"], ["bench", "threads=99999999999"], ["bench", "repeats=-1"], ["tokens", "nothing=1"],
    ["tokens", "--samples", "0"], ["tokens", "--samples", "abc"], ["slurm"], ["slurm", "nothing=1"],
    ["slurm", "selector=full", "gpus=-1"], ["slurm", "selector=full", "time=soon"],
    ["slurm", "--cell", "1"], ["slurm", "--cell", "1", "--plan", "/nowhere"], ["slurm", "--cell", "x"],
    ["embedded"], ["embedded", "nothing"], ["embedded", "train", "--images", "0"],
    ["embedded", "train", "--muon-lr", "nan"], ["embedded", "train", "model=nothing"],
    ["run", "-m", "seed=range(0,1000000000)"], ["run", "-m", "task=glob(*)"], ["run", "-m", "seed=range(0,10,0)"],
    ["run", "--config-dir", "/nowhere", "selector=full"], ["run", "--config-dir"], ["run", "--cfg", "nothing"],
]  # fmt: skip
"""Whole command lines that must be refused."""


def command_lines() -> Iterator[Case]:
    """Settings with values that they must refuse, and command lines that are none."""
    for key, values in VALUES.items():
        for value in values:
            line = [*(part for part in RUN if key.lstrip("+") != part.partition("=")[0]), f"{key}={value}"]
            yield Case(
                "command line", f"{key}={value[:40]}", lambda folder, line=line: with_out(line, folder)
            )
    for line in LINES:
        yield Case("command line", " ".join(line)[:60], lambda folder, line=line: list(line))


def mutated_lines(seed: int, count: int = 60) -> Iterator[Case]:
    """Good command lines with a few characters changed: right or refused, never a bug."""
    draw = random.Random(seed)
    good = " ".join([*RUN[1:], "model.batch_size=2", "selector.options.fusion=sum", "name=mine", "seed=1"])
    for number in range(count):
        text = list(good)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(text))
            text[place] = draw.choice(
                ["", "[", "]", "{", "}", ",", "=", ".", "'", '"', "$", "(", "\\", "é", "~", ":"]
            )
        line = ["run", "--cfg", "job", *"".join(text).split(" ")]
        yield Case("mutated command line", str(number), lambda folder, line=line: line, codes=(0, 2))


GOOD = "arms:\n  - {selector: full}\n  - {selector: zoo, budgets: [16]}\ntasks: [embedded_pope]\nlimit: 2\n"
FILES = {
    "twice": GOOD + "limit: 3\n", "unclosed": GOOD + "x: [1", "tab": GOOD + "\tx: 1\n", "list": "- 1\n",
    "text": "only text\n", "empty": "", "nul": GOOD + "\0", "latin": GOOD.encode() + b"question: \xff\n",
    "recursive": "question: &a [*a]\n" + GOOD, "deep": f"question: {'[' * 5000}{']' * 5000}\n" + GOOD,
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)) + GOOD,
    "itself": "defaults: [e]\n" + GOOD, "missing default": "defaults: [nothing]\n" + GOOD,
    "environment": "question: ${oc.env:HOME}\n" + GOOD,
    "python": "question: !!python/object/apply:os.system [ls]\n" + GOOD,
    "unknown key": GOOD + "nothing: 1\n", "wrong limit": GOOD.replace("limit: 2", "limit: many"),
    "wrong arm": GOOD.replace("selector: full", "selecto: full"), "unknown selector": GOOD.replace("zoo", "zo"),
    "wrong budget": GOOD.replace("[16]", "[-1]"), "arms a number": "arms: 3\ntasks: [embedded_pope]\n",
    "name out": "name: ../../x\n" + GOOD, "unknown task": GOOD.replace("embedded_pope", "pop"),
    "alias": GOOD + "question: *nothing\n", "int key": GOOD + "1: 2\n", "null arms": "arms: null\ntasks: [pope]\n",
    "float budget": GOOD.replace("[16]", "[.nan]"), "timestamp": GOOD + "seed: 2001-01-01\n",
}  # fmt: skip


def experiment_files() -> Iterator[Case]:
    """Experiment files that must be refused."""
    for name, text in FILES.items():

        def prepare(folder: Path, text: str | bytes = text) -> None:
            (folder / "exp").mkdir()
            (folder / "exp" / "e.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())

        def arguments(folder: Path) -> list[str]:
            return ["run", "+exp=e", "--config-dir", str(folder), "--cfg", "job"]

        codes = (0, 2) if name in ("null arms", "bomb") else (2,)
        yield Case("experiment file", name, arguments, prepare, codes)


def images() -> Iterator[Case]:
    """Images that must be refused, in `data check` and in `run`."""
    whole: dict[str, bytes] = {}
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50).convert("RGB").save(file, kind)
        whole[kind] = file.getvalue()
    bad = {
        f"{kind} cut at {share}": data[: int(len(data) * share)]
        for kind, data in whole.items()
        for share in (0.02, 0.3)
    }
    for kind in ("PPM", "PCX", "TGA", "ICNS", "DDS", "EPS"):
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, kind)
        bad[kind] = file.getvalue()
    bad |= {
        "bomb": png(40_000, 40_000), "wide": png(2_000_000, 1), "no size": png(0, 0), "empty": b"",
        "html": b"<html></html>",
        "nul": b"\0" * 100, "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "pdf": b"%PDF-1.4\n", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }  # fmt: skip
    for name, data in bad.items():
        yield _data(f"image: {name}", {"bytes": data, "path": None}, check=True)
    for name in ("empty", "JPEG cut at 0.3", "bomb", "html"):
        yield _data(f"image in a run: {name}", {"bytes": bad[name], "path": None}, check=False)
    for path in ("/etc/passwd", "../../../etc/passwd", "a\0b", "", "nothing.png", "~/x.png"):
        yield _data(f"path: {path!r}", {"bytes": None, "path": path}, check=True)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pope(folder: Path, picture: dict[str, object], **columns: object) -> Path:
    """A table of one POPE row with an image, and other columns in the place of its own; its file."""
    target = folder / "data" / "pope" / "test-00000-of-00001.parquet"
    target.parent.mkdir(parents=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {
        "id": ["1"], "question_id": ["1"], "question": ["Is it?"], "answer": ["yes"], "category": ["random"],
        "image_source": ["a"], "image": pa.array([picture], kind),
    }  # fmt: skip
    pq.write_table(pa.table({k: v for k, v in (table | columns).items() if v is not None}), target)
    return target


def _data(name: str, image: dict[str, object], check: bool) -> Case:
    def arguments(folder: Path) -> list[str]:
        root = str(folder / "data")
        if check:
            return ["data", "check", "pope", "--root", root]
        line = [part for part in RUN if not part.startswith(("task=", "limit="))]
        return with_out([*line, "task=pope", "limit=null", "data=folder", f"data.root={root}"], folder)

    return Case("image", name, arguments, lambda folder: pope(folder, image))


def tables(seed: int) -> Iterator[Case]:
    """Parquet files that are cut, changed, or hold other columns."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    image: dict[str, object] = {"bytes": file.getvalue(), "path": None}
    draw = random.Random(seed)

    def damaged(place: float, how: str) -> Callable[[Path], object]:
        def prepare(folder: Path) -> None:
            path = pope(folder, image)
            data = bytearray(path.read_bytes())
            at = int(place * len(data))
            path.write_bytes(
                data[:at] if how == "cut" else data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
            )

        return prepare

    def arguments(folder: Path) -> list[str]:
        return ["data", "check", "pope", "--root", str(folder / "data")]

    for _ in range(8):
        yield Case("table", "cut", arguments, damaged(draw.random(), "cut"))
        yield Case("table", "one byte", arguments, damaged(draw.random(), "byte"), (0, 2))
    for name in ("question", "answer", "category", "image", "question_id"):
        drop: dict[str, object] = {name: None}
        yield Case(
            "table",
            f"without {name}",
            arguments,
            lambda folder, drop=drop: pope(folder, image, **drop),
            (0, 2),
        )
    for name in ("question", "answer", "category"):
        for value in (5, None, [1], {"a": 1}):
            odd: dict[str, object] = {name: pa.array([value])}
            yield Case(
                "table",
                f"{name} is {value}",
                arguments,
                lambda folder, odd=odd: pope(folder, image, **odd),
                (0, 2),
            )


ANSWER = {
    "doc": {"question_id": "1", "question": "Is it?", "answer": "yes", "category": "random"},
    "response": "yes",
}
PREDICTIONS = {
    "empty": "", "text": "no json\n", "list": "[1]\n", "number": "1\n", "deep": DEEP + "\n",
    "cut": json.dumps(ANSWER)[:30] + "\n",
    "no doc": '{"response": "yes"}\n', "no response": json.dumps({"doc": ANSWER["doc"]}) + "\n", "nul": "\0\0\n",
    "doc a list": '{"doc": [1], "response": "yes"}\n', "response a list": json.dumps(ANSWER | {"response": [1]}) + "\n",
    "response null": json.dumps(ANSWER | {"response": None}) + "\n", "no answer": '{"doc": {}, "response": "yes"}\n',
    "twice": (json.dumps(ANSWER) + "\n") * 2, "surrogate": '{"doc": {"question_id": "\\ud800"}, "response": "a"}\n',
    "nan": '{"doc": NaN, "response": "yes"}\n', "latin": b'{"doc": "\xff"}\n', "huge number": "1" * 10_000 + "\n",
}  # fmt: skip


def predictions() -> Iterator[Case]:
    """Files for `score` that must be refused."""
    for task in ("pope", "mme", "mmmu_val"):
        for name, text in PREDICTIONS.items():

            def prepare(folder: Path, text: str | bytes = text) -> None:
                (folder / "p.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())

            def arguments(folder: Path, task: str = task) -> list[str]:
                return ["score", task, str(folder / "p.jsonl")]

            yield Case("predictions", f"{task}: {name}", arguments, prepare)


def with_out(line: list[str], folder: Path) -> list[str]:
    """A command line that writes into the folder of its case, unless it says where."""
    return line if any(part.startswith("out=") for part in line) else [*line, f"out={folder / 'out'}"]
