"""`flops_tflop` of a record equals what torch counts for that answer alone, including the selector."""

import json
from types import SimpleNamespace

import pytest

from zoo_exp import cli
from zoo_exp.config import compose
from zoo_exp.evaluation.module import PrunedVLM
from zoo_exp.evaluation.record_maker import RecordMaker
from zoo_exp.evaluation.sample_batches import Collate, Sample
from zoo_exp.evaluation.sources import load_configured
from zoo_exp.evaluation.work import load_work
from zoo_exp.measure.stages import FlopProbe, answer, exclusive
from zoo_exp.models.families import adapter_for
from zoo_exp.models.responses import Answer
from zoo_exp.models.tiny import tiny_inputs, tiny_model

ARMS = "[full,blind,zoo,zoo_closed_form,divprune,vispruner,mmtok,text_attention,fastv,sparsevlm,dart]"
# 28 of the embedded model's 144 tokens: SparseVLM's schedules cover 64 to 192 of 576.
RUN = [f"selector={ARMS}", "budget=[28]", "task=embedded_pope", "limit=3", "logger=none", "trainer=cpu"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert cli.main(["run", *RUN, f"out={out}"]) == 0
    (path,) = out.glob("*/*/records.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_flops_of_every_arm_equal_those_counted_by_torch(records):
    experiment = compose(RUN)
    loaded = load_configured(experiment.model, "cpu")
    work = load_work(experiment.cells()[0], None, experiment.limit)
    doc = work.rows[0]
    sample = Sample(0, work.task.sample_id(doc), doc)
    inputs = Collate(work.task, loaded.processor, "embedded")([sample]).inputs
    mine = {row["arm_id"]: row for row in records if row["sample_id"] == sample.id}
    costs = {}
    for arm in experiment.arms:
        selector, row = arm.build(), mine[arm.id]
        for _ in range(2):  # the second pass excludes what is computed once per model
            with FlopProbe() as probe:
                outcome = answer(loaded, lambda: inputs, selector, arm.budget, row["new_tokens"], probe)
        counted = exclusive(probe.flops, outcome.inside)
        assert row["flops_tflop"] * 1e12 == pytest.approx(sum(counted.values()), rel=0.01), arm.label
        costs[arm.selector, arm.label] = chosen = counted["score"] + counted["select"]
        assert row["selector_tflop"] * 1e12 == pytest.approx(chosen, rel=0.01, abs=1e3), arm.label
        assert row["prefill_tflop"] * 1e12 == pytest.approx(counted["prefill"], rel=0.01), arm.label
    spent = {label: value for (_, label), value in costs.items()}
    assert sum(value > 0 for value in spent.values()) >= 8, spent  # all but full, blind and such


def test_flops_include_the_selector(records):
    flops = {row["arm"]: row["flops_tflop"] for row in records if row["sample_id"] == records[0]["sample_id"]}
    same = {row["arm"]: row["kept_tokens"] for row in records}
    (estimated,) = [name for name in flops if name.startswith("zoo") and "closed" not in name]
    (diversity,) = [name for name in flops if name.startswith("divprune")]
    assert same[estimated] == same[diversity]
    assert flops[estimated] > flops[diversity]


def test_newline_tokens_cost_the_vision_encoder_nothing(tmp_path):
    model = tiny_model("llava_next")
    adapter = adapter_for(model)
    module = PrunedVLM(SimpleNamespace(model=model, adapter=adapter), tmp_path)
    inputs = tiny_inputs(model, [[(112, 112)]])
    (images,) = adapter.encode(inputs, frozenset())
    task = SimpleNamespace(
        name="t", score=lambda doc, response: {"score": 1.0}, image_name=str, question=str, reference=str
    )
    fields = {
        "arm": "a",
        "arm_id": "a",
        "row": "a",
        "selector": "a",
        "options": {},
        "budget": None,
        "seed": 0,
    }
    arm = SimpleNamespace(as_dict=lambda: fields)
    answer = Answer("yes", 5, None, 20, 3, [])
    record = RecordMaker(task, "c", module.costs).answered(arm, Sample(0, "s", {}), answer, images, 1000)
    stages = module.costs.stages(images, 20, 3)
    assert record.flops_tflop == round((stages.total + 1000) / 1e12, 9)
    assert record.prefill_tflop == round(stages.prefill / 1e12, 9)
    assert module.costs.vision.guess(record.n_visual) != module.costs.encode(images)
