"""The estimate of time and memory before a run, from FLOPs and from the times of earlier runs."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from zoo_exp import pipeline, tasks
from zoo_exp.config import compose
from zoo_exp.measure import cost_estimate, earlier_times
from zoo_exp.measure.machine import Machine
from zoo_exp.models.tiny import tiny_model
from zoo_exp.tasks.data import expected_rows

MACHINE = Machine("test", 2e12, 1e12)
BASE = ["selector=[full,zoo]", "budget=16", "task=[embedded_pope,embedded_gqa]", "limit=2", "logger=none"]


@pytest.fixture
def experiment(tmp_path):
    return compose([*BASE, "trainer=cpu", f"out={tmp_path}"])


def estimator(experiment):
    return cost_estimate.Estimator(
        experiment.model, *cost_estimate.configured(experiment.model), machine=MACHINE
    )


def asked(experiment, questions):
    return [cost_estimate.Asked.whole(cell, questions) for cell in experiment.cells()]


def test_parameters_of_the_published_models_need_no_file():
    model = compose(["model=llava15_7b", "selector=full"]).model
    config, weights, dtype = cost_estimate.configured(model)
    assert weights == 2 * 7_063_427_072  # of the published checkpoint, in float16
    assert dtype == torch.float16
    memory = cost_estimate.Estimator(model, config, weights, dtype, MACHINE).memory(16)
    # By hand: keys and values, 32 layers of 4096, two bytes, prompts of 576 + 60 + 16 tokens.
    cache = 2 * 32 * 4096 * 2 * model.batch_size * (576 + 60 + 16)
    assert 1.0 < memory / (weights + cache) < 1.15
    assert cost_estimate.configured(replace(model, path="no/body")) is None


def test_parameters_of_a_folder_are_those_of_its_model(tmp_path, experiment):
    model = tiny_model("llava")
    model.config.save_pretrained(tmp_path / "m")
    made = compose(
        ["model=llava15_7b", f"model.path={tmp_path / 'm'}", "model.dtype=float32", "selector=full"]
    )
    _, weights, dtype = cost_estimate.configured(made.model)
    assert (weights, dtype) == (sum(p.nbytes for p in model.parameters()), torch.float32)


def test_time_grows_with_questions_and_visual_tokens(experiment):
    known = estimator(experiment)
    full, zoo = experiment.arms
    assert (known.kept(full), known.kept(zoo)) == (144, 16)
    assert known.answer(full) > known.answer(zoo) > 0
    one, ten = (cost_estimate.estimate(asked(experiment, n), known, {}).seconds for n in (1, 10))
    assert ten == pytest.approx(10 * one)
    assert cost_estimate.estimate(asked(experiment, 10), known, {}, 2).seconds == pytest.approx(ten / 2)
    assert cost_estimate.estimate(asked(experiment, 0), known, {}).cells == []


def test_earlier_times_are_taken_and_correct_the_formula_elsewhere(experiment):
    known = estimator(experiment)
    full, zoo = experiment.arms
    measured = {("embedded_pope", full.id): (3 * known.answer(full), 0.5)}
    pope, gqa = cost_estimate.estimate(asked(experiment, 10), known, measured).cells
    assert pope.seconds == pytest.approx(10 * (0.5 + 3 * known.answer(full) + 3 * known.answer(zoo)))
    assert gqa.seconds == pytest.approx(30 * (known.encoding() + known.answer(full) + known.answer(zoo)))


def test_a_run_says_its_cost_before_its_answers_and_the_next_one_uses_its_times(experiment):
    said = [io.StringIO(), io.StringIO()]
    assert pipeline.run(experiment, Console(file=said[0], width=300)) == 0
    found = earlier_times.seconds(experiment.out, experiment.model, experiment.seed)
    assert set(found) == {(task, arm.id) for task in experiment.tasks for arm in experiment.arms}
    rows = [json.loads(line) for line in (experiment.run_dir / "timings.jsonl").read_text().splitlines()]
    for row in rows:  # one batch of two questions for each task and arm
        answer, vision = found[row["task"], row["arm_id"]]
        assert (2e3 * answer, 2e3 * vision) == pytest.approx((row["spent_ms"], row["vision_ms"]))
    other = compose([*BASE, "model.dtype=bfloat16", "trainer=cpu", f"out={experiment.out}"])
    assert earlier_times.seconds(other.out, other.model, other.seed) == {}  # another model: other cells

    more = compose([*BASE[:-2], "limit=3", "logger=none", "trainer=cpu", f"out={experiment.out}"])
    assert pipeline.run(more, Console(file=said[1], width=300)) == 0
    first, second = (text.getvalue() for text in said)
    assert "estimate, from FLOPs at" in first
    assert "estimate, from the times of earlier runs on this device: under 1 min" in second
    assert "GiB of memory" in first.partition("POPE")[0]


def test_broken_files_of_earlier_runs_do_not_matter(experiment):
    folder = experiment.out / "other" / "run"
    folder.mkdir(parents=True)
    for content in ("{", "[]", '{"device": 1}'):
        (folder / "experiment.json").write_text(content)
        (folder / "timings.jsonl").write_text('{"version": 99}\n{"x": 1}\n')
        assert earlier_times.seconds(experiment.out, experiment.model, 0) == {}


def test_long_runs_are_listed_by_cell(experiment):
    cells = [cost_estimate.CellCost(task, 1000, 2000, 5000.0, 2**31) for task in experiment.tasks]
    lines = cost_estimate.Estimate(cells, "from a test").lines()
    assert lines[0] == "estimate, from a test: 2.8 h, 2.0 GiB of memory"
    assert [line.split()[0] for line in lines[1:]] == list(experiment.tasks)
    assert "1.4 h" in lines[1]


def test_rows_are_known_without_the_hub():
    assert expected_rows(tasks.get("pope")) == 9000
    assert expected_rows(tasks.get("mme"), limit=5) == 10
    assert expected_rows(tasks.get("embedded_gqa"), limit=5) == 5
    assert expected_rows(tasks.get("pope"), root="/nowhere") is None
