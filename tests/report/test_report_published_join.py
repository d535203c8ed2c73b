"""Published rows are joined only if model, benchmark, metric, budget and method agree."""

import pandas as pd
import pytest

from zoo_exp.report import published
from zoo_exp.statistics.contribution import contribution


def row(selector="divprune", options="{}", task="gqa", budget="64", value=0.6, **more):
    return {"arm": f"{selector} @{budget}", "selector": selector, "options": options, "task": task} | {
        "budget": budget, "value": value, "low": value - 0.01, "high": value + 0.01, "retained": 90.0, **more
    }  # fmt: skip


def joined(*rows, model="llava15_7b"):
    return published.join(pd.DataFrame(rows), model, published.read())


def test_the_difference_is_ours_minus_published_in_percent():
    table = joined(row())
    (line,) = table[table["source"] == "poster"].to_dict("records")
    assert line["published"] == 57.78
    assert line["difference"] == pytest.approx(60 - 57.78)
    assert (line["within"], line["ours"], line["low"]) == (False, 60.0, pytest.approx(59.0))


def test_points_stay_points():
    assert joined(row(task="mme", value=1700.0, low=1600.0, high=1800.0))["difference"].iloc[
        0
    ] == pytest.approx(1700 - 1674.4)


def test_equal_numbers_of_poster_and_supplement_are_listed_once():
    assert len(joined(row())) == 1
    two = joined(row("zoo", '{"fusion": "multiply"}', "mme", value=1780.0), model="llava15_13b")
    assert sorted(two["published"]) == [1780.03, 1780.83]


@pytest.mark.parametrize(
    "change",
    [
        {"task": "textvqa_val"},  # without OCR tokens: another benchmark
        {"task": "vqav2_val"},  # the papers' are of test-dev
        {"task": "seedbench_image"},  # LLaVA-1.5-7B's is over images and videos
        {"task": "embedded_gqa"},
        {"budget": "11.1%"},
        {"budget": "16"},
        {"selector": "mmtok"},
        {"options": '{"newline": "keep"}'},
        {"selector": "zoo", "options": '{"estimator": "closed_form"}'},
        {"selector": "zoo", "options": '{"fusion": "sum"}'},
        {"task": "average"},
        {"above_budget": True},  # a layer selector's mean over layers is above what the papers count
    ],
)
def test_rows_measured_differently_are_not_joined(change):
    assert joined(row(**change)).empty


def test_the_unit_of_a_metric_is_declared_not_guessed_from_its_values():
    """A broken model with 0.9 percent of MMBench is not at 90 percent."""
    assert joined(row(task="mmbench_en_dev_static", value=0.9))["ours"].tolist() == [0.9]


def experiment(limit=None, **model):
    fields = {
        "name": "llava15_7b",
        "path": "llava-hf/llava-1.5-7b-hf",
        "weights": "pretrained",
        "layers": None,
        "protocol": "llava",
    }
    return {"model": {**fields, **model}, "limit": limit}


@pytest.mark.parametrize(
    "path",
    [
        "/data/llava-1.5-7b-hf",
        "hub/models--llava-hf--llava-1.5-7b-hf/snapshots/b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
    ],
)
def test_the_papers_checkpoint_may_be_in_any_folder(path):
    table, notes = published.beside(pd.DataFrame([row()]), experiment(path=path))
    assert len(table) == 1
    assert notes == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"path": "/data/my-finetune"},
            "model.path=/data/my-finetune is not known to be the paper's checkpoint; if it holds "
            "llava-hf/llava-1.5-7b-hf, type model.checkpoint=llava-hf/llava-1.5-7b-hf",
        ),
        ({"weights": "random"}, "model.weights is random"),
        ({"protocol": "hf"}, "model.protocol is hf, and theirs is of LLaVA's own code"),
        ({"protocol": None}, "type model.protocol=llava"),  # a run of an earlier version
        ({"layers": 4}, "only the first 4 layers"),
        ({"limit": 100}, "limit=100 evaluates a part of each benchmark"),
    ],
)
def test_the_name_of_a_model_is_not_enough(change, why):
    table, (note,) = published.beside(pd.DataFrame([row()]), experiment(**change))
    assert table.empty
    assert note.startswith("published numbers are not shown: ")
    assert why in note


def test_without_published_rows_there_is_no_note():
    other = experiment(limit=100, name="embedded", path="embedded")
    table, notes = published.beside(pd.DataFrame([row()]), other)
    assert table.empty
    assert notes == []


def test_other_models_are_not_joined():
    assert joined(row(), model="embedded").empty


NEXT = '{"fusion": "multiply", "projector": "low_rank", "rank": 128}'


@pytest.mark.parametrize(
    ("per_tile", "published_as"), [("128/tile", "640"), ("64/tile", "320"), ("32/tile", "160")]
)
def test_on_llava_next_a_published_count_is_five_times_ours_per_tile(per_tile, published_as):
    """Supplement C.2: 160 is 32 of each of five tiles, and 128 where there are four."""
    for line in (row("zoo", NEXT, budget=per_tile), row(budget=per_tile)):
        found = joined(line, model="llava_next_7b")
        assert set(found["budget"]) == {published_as}
        assert len(found) >= 1
    assert len(joined(row("full", budget=None), model="llava_next_7b")) == 1


@pytest.mark.parametrize(
    "other",
    [
        row("zoo", NEXT, budget="160"),  # tiles that compete for a number per image
        row(budget="160"),
        row(budget="<=32"),
        row(budget="160/tile"),
        row(budget="5.6%/tile"),
        row("zoo", '{"fusion": "multiply"}', budget="32/tile"),  # the paper's is of rank 128
        row("zoo", '{"fusion": "multiply", "projector": "low_rank", "rank": 64}', budget="32/tile"),
        row("zoo", NEXT.replace("low_rank", "low_rank_as_released"), budget="32/tile"),
        row("zoo", NEXT.replace("}", ', "control": "inverted"}'), budget="32/tile"),
    ],
)
def test_nothing_else_is_joined_on_llava_next(other):
    assert joined(other, model="llava_next_7b").empty


def test_the_rank_is_optional():
    """128 is the selector's default; elsewhere the paper's projector is the full one."""
    options = NEXT.replace(', "rank": 128', "")
    assert len(joined(row("zoo", options, budget="32/tile"), model="llava_next_7b")) == 1
    assert joined(row("zoo", NEXT)).empty
    assert joined(row("zoo", '{"fusion": "multiply"}', budget="64/tile")).empty


def test_the_papers_averages_of_an_artefact():
    table = published.averages("table1_llava15_7b", published.read())
    assert len(table) == 16
    assert set(table["keep"].round(3)) == {1.0, 0.333, 0.222, 0.111}
    assert published.averages("sanity", published.read()).empty


def test_without_the_file_nothing_is_joined(tmp_path):
    nothing = published.read(tmp_path / "none.csv")
    assert published.join(pd.DataFrame([row()]), "llava15_7b", nothing).empty
    assert published.averages("ablation_fusion", nothing).empty


def test_what_is_retained_where_the_image_is_needed():
    rows = [row("full", task="a", value=0.9), row("full", task="b", value=0.6)]
    rows += [row("blind", task="a", value=0.3), row("blind", task="b", value=0.5)]
    table = pd.DataFrame({"task": ["a", "b"], "relative": [2.0, 0.2]})
    frame = pd.DataFrame([*rows, row(task="a", retained=80.0), row(task="b", retained=20.0)])
    found = contribution(frame, table)
    assert found.needing == ["a"]
    assert found.retained["divprune @64"] == 80.0
    assert contribution(frame, table.head(0)) is None


def test_a_declared_checkpoint_allows_published_numbers():
    frame = pd.DataFrame([row()])
    declared = experiment(path="/data/weights", checkpoint="llava-hf/llava-1.5-7b-hf")
    table, notes = published.beside(frame, declared)
    assert len(table)
    assert not notes
    table, notes = published.beside(frame, experiment(path="/data/weights", checkpoint="mine/other"))
    assert table.empty
    assert "type model.checkpoint=llava-hf/llava-1.5-7b-hf" in notes[0]
