"""What an arm cannot do on an image is a record that says why; the other arms and questions go on."""

import json

import pytest
from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import module
from zoo_exp.evaluation.sample_batches import Collate
from zoo_exp.rehearsal import made_data, slim
from zoo_exp.runs import reading
from zoo_exp.runs.records import Record
from zoo_exp.runs.run_answers import Answers
from zoo_exp.statistics.applicable import applicable
from zoo_exp.statistics.arm_rows import group

RUN = [
    "model=qwen25_vl_7b", "task=pope", "data=folder", "logger=none", "trainer=cpu", "budget=15",
    "selector=[full,divprune,sparsevlm]", "model.dtype=float32", "model.layers=5", "limit=3",
    "model.min_pixels=3136",  # as the processor comes: images keep their size
]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A slim Qwen2.5-VL, and images of 144, 80 and 96 visual tokens."""
    folder = tmp_path_factory.mktemp("sources")
    return [
        f"model.path={slim.make('qwen25_vl_7b', folder / 'qwen')}",
        f"data.root={made_data.make(folder / 'data', 6)}",
    ]


def run(out, sources, *more):
    experiment = compose([*RUN, *sources, f"out={out}", *more])
    console = Console(record=True, width=250, file=open("/dev/null", "w"))  # noqa: SIM115
    assert pipeline.run(experiment, console) == 0
    lines = (experiment.run_dir / "records.jsonl").read_text().splitlines()
    return experiment, list(map(json.loads, lines)), console.export_text()


def test_an_arm_without_a_schedule_for_some_images(tmp_path, sources):
    """SparseVLM's schedules reach from 64 to 192 of 576 tokens: 15 tokens are outside on the largest."""
    _, rows, printed = run(tmp_path, sources)
    by_arm = {arm: [r for r in rows if r["selector"] == arm] for arm in ("full", "divprune", "sparsevlm")}
    assert {len(own) for own in by_arm.values()} == {3}
    assert not any("not_applicable" in r for r in by_arm["full"] + by_arm["divprune"])
    refused = [r for r in by_arm["sparsevlm"] if "not_applicable" in r]
    assert 0 < len(refused) < 3
    for row in by_arm["sparsevlm"]:
        outside = not 64 <= 15 / row["n_visual"] * 576 <= 192
        assert ("not_applicable" in row) == outside
    assert all(
        "schedules reach from 64 to 192" in r["not_applicable"] and r["response"] == "" for r in refused
    )
    assert f"sparsevlm @<=15 not applicable to {len(refused)} of 3 questions" in printed.replace("\n", " ")
    assert "n/a" in printed
    again = run(tmp_path, sources)[1]
    assert again == rows  # nothing is asked again


def test_an_image_that_the_processor_refuses(tmp_path, sources, monkeypatch):
    from zoo_exp.models import loading

    load, sizes = loading.processor_of, []

    def refusing(*args, **kwargs):
        processor = load(*args, **kwargs)
        inner = type(processor.image_processor).__call__

        class Refusing(type(processor.image_processor)):
            def __call__(self, images, *a, **k):
                for image in images:
                    if image.size == (224, 224):  # what loading looks at the processor with
                        continue
                    sizes.append(image.size)
                    if image.size == sizes[0]:
                        raise ValueError(f"absolute aspect ratio must be smaller than 200, got {image.size}")
                return inner(self, images, *a, **k)

        processor.image_processor.__class__ = Refusing
        return processor

    monkeypatch.setattr(loading, "processor_of", refusing)
    _, rows, printed = run(tmp_path, sources, "selector=[full,divprune]")
    refused = {r["sample_id"] for r in rows if "not_applicable" in r}
    assert 0 < len(refused) < 3
    assert len(rows) == 6
    assert sum("not_applicable" in r for r in rows) == 2 * len(refused)
    assert "the processor refuses the image of" in next(
        r["not_applicable"] for r in rows if "not_applicable" in r
    )
    assert f"{len(refused)} of 3 questions not applicable to any arm" in printed.replace("\n", " ")


def test_a_bad_aspect_ratio_on_the_real_processor(tmp_path):
    """Qwen2.5-VL takes up to 200 to 1."""
    from types import SimpleNamespace

    from PIL import Image

    from zoo_exp.models.loading import load_model

    folder = slim.make("qwen25_vl_7b", tmp_path, weights=False)
    processor = load_model(folder, weights="random", layers=1).processor
    task = SimpleNamespace(content=lambda doc, family: [Image.new("RGB", doc["size"]), "Is there a dog?"])
    sizes = [(640, 480), (2000, 9), (480, 640)]
    samples = [SimpleNamespace(id=str(size), doc={"size": size}) for size in sizes]
    batch = Collate(task, processor, "qwen2_5_vl")(samples)
    assert [sample.id for sample in batch.samples] == ["(640, 480)", "(480, 640)"]
    assert len(batch.inputs["input_ids"]) == 2
    ((sample, reason),) = batch.refused
    assert sample.id == "(2000, 9)"
    assert reason.startswith("the processor refuses the image of 2000 x 9 pixels: ")
    alone = Collate(task, processor, "qwen2_5_vl")(samples[1:2])
    assert (alone.samples, alone.inputs, len(alone.refused)) == ([], {}, 1)


def test_a_processor_that_refuses_a_whole_batch_for_another_reason_is_an_error():
    class Processor:
        image_processor = staticmethod(lambda images, return_tensors: {})

        def apply_chat_template(self, messages, add_generation_prompt):
            return ""

        def __call__(self, **given):
            raise ValueError("the tokens do not match")

    from types import SimpleNamespace

    task = SimpleNamespace(content=lambda doc, family: ["a question"])
    with pytest.raises(ValueError, match="tokens do not match"):
        Collate(task, Processor(), "llava")([SimpleNamespace(id="1", doc={})])


def test_answers_of_other_arms_are_kept_when_one_fails(tmp_path, sources, monkeypatch):
    generate = module.generate

    def failing(loaded, batch, selector, *rest, **more):
        if selector.name == "divprune":
            raise InvalidValueError("no such thing")
        return generate(loaded, batch, selector, *rest, **more)

    monkeypatch.setattr(module, "generate", failing)
    experiment = compose([*RUN, *sources, f"out={tmp_path}", "selector=[full,divprune]"])
    with pytest.raises(InvalidValueError, match="no such thing"):
        pipeline.run(experiment, Console(quiet=True))
    kept = list(reading.records(experiment.run_dir))
    assert [r["selector"] for r in kept] == ["full"] * 3


def test_the_key_is_written_only_where_there_is_a_reason(make_run):
    row = next(iter(reading.records(make_run())))
    assert "not_applicable" not in Record.from_row(row).to_row()
    reason = Record.from_row({**row, "not_applicable": "too small"})
    assert reason.to_row()["not_applicable"] == "too small"


def test_questions_that_nobody_can_answer_do_not_cost_an_arm_its_number():
    rows = [
        {
            "task": "t",
            "arm": a,
            "arm_id": a,
            "row": a,
            "selector": a,
            "options": {},
            "budget": None,
            "seed": 0,
        }
        | {"sample_id": s, "not_applicable": "x" if s == "1" or (a, s) == ("b", "2") else None}
        for a in "ab"
        for s in "123"
    ]
    found = applicable(Answers.of(rows), group(rows))
    assert found.left_out == {("t", "b")}
    task = found.answers.tasks["t"]
    assert {arm: [task.sample_ids[n] for n in own.values("sample")] for arm, own in task.arms.items()} == {
        "a": ["2", "3"]
    }
    assert [note.split(":")[0] for note in found.notes] == ["t", "t"]
