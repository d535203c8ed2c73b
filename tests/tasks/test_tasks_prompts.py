"""Prompts: equal to the reference's, and kept as text files so that a changed prompt is a visible diff.

To accept changed prompts: python tests/tasks/test_tasks_prompts.py
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from zoo_exp import tasks

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE.parent / "golden" / "scoring" / "prompts.json").read_text())["tasks"]
NAMES = {name: "mmbench_en_dev_static" if name == "mmbench_en_dev" else name for name in REFERENCE}
FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "qwen_vl", "embedded")
WORLD_2 = [name for name in tasks.available() if name.startswith("world2")]
OTHERS = [name for name in tasks.available() if name not in WORLD_2]
DOCS = {tasks.get(name).family: REFERENCE[key]["docs"] for key, name in NAMES.items()}


@pytest.mark.parametrize("key", NAMES)
def test_prompts_are_the_references(key):
    task = tasks.get(NAMES[key])
    for variant in REFERENCE[key]["variants"]:
        for model in variant["models"]:
            assert [task.prompt(doc, model) for doc in REFERENCE[key]["docs"]] == variant["texts"], model


@pytest.mark.parametrize("key", NAMES)
def test_generation_settings_are_the_references(key):
    task = tasks.get(NAMES[key])
    for variant in REFERENCE[key]["variants"]:
        settings = variant["generation_kwargs"]
        assert task.generation.max_new_tokens == settings.get("max_new_tokens")
        assert list(task.generation.until) == settings["until"]
        assert not settings.get("temperature")
        assert not settings.get("do_sample")


def test_mmbench_prompts_with_what_tables_do_to_missing_cells():
    task = tasks.get("mmbench_en_dev_static")
    doc = {"question": "Q?", "hint": float("nan"), "A": "x", "B": 2, "C": float("nan"), "D": "nan"}
    assert task.prompt(doc, "embedded") == "Q?\nA. x\nB. 2"
    assert task.prompt({**doc, "hint": "Look.", "E": "z"}, "embedded") == "Look. Q?\nA. x\nB. 2\nE. z"


def test_ocr_tokens_are_a_protocol_of_their_own():
    task, want = tasks.get("textvqa_val_ocr"), REFERENCE["textvqa_val"]["ocr_true_variant"]["texts"]
    assert [task.prompt(doc, "llava") for doc in REFERENCE["textvqa_val"]["docs"]] == want


@pytest.mark.parametrize("key", NAMES)
def test_chat_content_is_the_references(key):
    """Image and text parts in the reference's order; image k of a golden MMMU row is 8 + k pixels wide."""
    task = tasks.get(NAMES[key])
    for chat in REFERENCE[key]["chat_messages"]:
        for doc, want in zip(REFERENCE[key]["docs"], chat["per_doc"], strict=True):
            pictures = {f"image_{k}": Image.new("RGB", (8 + k, 8)) for k in range(1, 8)}
            row = {"image": Image.new("RGB", (8, 8)), **pictures, **doc}
            parts = [
                part if isinstance(part, str) else list(part.size)
                for part in task.content(row, chat["model"])
            ]
            wanted = [part.get("text", part.get("size")) for part in want["messages"][0]["content"]]
            assert parts == wanted


def snapshot(name, family):
    task = tasks.get(name)
    docs = [{"ocr_tokens": [], **doc} for doc in DOCS[task.family]]
    return "\n--------\n".join(task.prompt(doc, family) for doc in docs) + "\n"


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_those_of_the_snapshots(name, family):
    path = HERE / "snapshots" / name / f"{family}.txt"
    assert snapshot(name, family) == path.read_text(), f"run: python {Path(__file__).name} if that was meant"


def test_there_is_no_snapshot_without_a_task():
    names = {path.name for path in (HERE / "snapshots").iterdir()}
    assert names == set(OTHERS)


def test_world_2_has_the_prompts_of_world_1():
    for name in WORLD_2:
        task = tasks.get(name)
        (first,) = (
            one for one in OTHERS if one.startswith("embedded_") and tasks.get(one).family == task.family
        )
        for family in FAMILIES:
            assert snapshot(name, family) == snapshot(first, family), name


def test_embedded_prompts_have_no_instruction():
    for name in tasks.available():
        text = snapshot(name, "embedded")
        for phrase in ("Answer", "several options", "Context:", "<image", "Please answer yes or no. ", "OCR"):
            assert phrase not in text, (name, phrase)


if __name__ == "__main__":
    for name in OTHERS:
        for family in FAMILIES:
            path = HERE / "snapshots" / name / f"{family}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(snapshot(name, family))
