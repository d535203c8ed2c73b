"""The bad folders of `benchmarks/faults.py`: damaged run folders and checkpoints."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from faults_input import DEEP, RUN, Case, with_out

LINES_OF_A_RUN: dict[str, Callable[[str], str]] = {
    "nested": lambda line: DEEP, "list": lambda line: "[1]", "nothing": lambda line: "{}", "text": lambda line: "text",
    "cut": lambda line: line[: len(line) // 2], "zeros": lambda line: "\0" * 50,
    "other types": lambda line: json.dumps({key: [value] for key, value in json.loads(line).items()}),
    "surrogate": lambda line: json.dumps(json.loads(line) | {"task": "\ud800"}),
}  # fmt: skip
DOCUMENTS = {
    "list": "[1]",
    "text": "text",
    "empty": "",
    "deep": DEEP,
    "odd": '{"experiment": "x"}',
    "nul": "\0",
}


def run_folders(finished: Path) -> Iterator[Case]:
    """Damaged run folders, for `report` and for a rerun: healed, or refused in one line.

    Args:
        finished: the `out=` folder of a finished run of `RUN`.
    """

    def copied(folder: Path) -> Path:
        shutil.copytree(finished, folder / "out")
        (run,) = (folder / "out" / "custom").iterdir()
        return run

    def case(name: str, change: Callable[[Path], object], command: str) -> Case:
        def arguments(folder: Path) -> list[str]:
            (run,) = (folder / "out" / "custom").iterdir()
            return ["report", str(run)] if command == "report" else with_out(RUN, folder)

        return Case(
            "run folder", f"{command}: {name}", arguments, lambda folder: change(copied(folder)), (0, 2)
        )

    for command in ("report", "run"):
        for file in ("records", "timings", "masks"):
            for name, damage in LINES_OF_A_RUN.items():

                def change(run: Path, file: str = file, damage: Callable[[str], str] = damage) -> None:
                    path = run / f"{file}.jsonl"
                    first, *rest = path.read_text().splitlines()
                    path.write_text("\n".join([damage(first), *rest]) + "\n")

                yield case(f"{file} {name}", change, command)
        for file in ("experiment.json", "cells/embedded_pope.json", "config.yaml"):
            for name, text in DOCUMENTS.items():
                yield case(
                    f"{file} {name}", lambda run, file=file, text=text: (run / file).write_text(text), command
                )


def checkpoints(shipped: Path) -> Iterator[Case]:
    """Copies of a shipped model with one file damaged or one field wrong.

    Args:
        shipped: its folder.
    """
    fields: dict[str, object] = {
        "model_type": "nothing", "vision_config": None, "text_config": 5, "architectures": [], "image_token_index": "x",
        "vision_feature_layer": 99, "quantization_config": {"quant_method": "nothing"}, "dtype": "float33",
    }  # fmt: skip
    texts = {
        "cut": lambda text: text[: len(text) // 2],
        "deep": lambda text: DEEP,
        "empty": lambda text: "",
        "list": lambda text: "[]",
    }

    def case(name: str, change: Callable[[Path], object]) -> Case:
        def prepare(folder: Path) -> None:
            shutil.copytree(shipped, folder / "model")
            change(folder / "model")

        def arguments(folder: Path) -> list[str]:
            return with_out([*RUN, f"model.path={folder / 'model'}"], folder)

        return Case("checkpoint", name, arguments, prepare, (0, 2))

    def field(key: str, value: object) -> Callable[[Path], object]:
        def change(model: Path) -> None:
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps(config | {key: value}))

        return change

    for key, value in fields.items():
        yield case(f"config.json: {key} is {value}", field(key, value))
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        for name, change in texts.items():

            def damage(model: Path, file: str = file, change: Callable[[str], str] = change) -> None:
                (model / file).write_text(change((model / file).read_text()))

            yield case(f"{file} {name}", damage)
    for size in (0, 7, 5000):
        yield case(
            f"weights cut to {size} bytes", lambda model, size=size: _cut(model / "model.safetensors", size)
        )


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
