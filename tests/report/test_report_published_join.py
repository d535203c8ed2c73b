"""Published rows stand beside ours only where model, benchmark, metric, budget and method are the same."""

import pandas as pd
import pytest

from zoo_exp.report import published
from zoo_exp.report.contribution import contribution


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


def test_equal_numbers_of_poster_and_supplement_stand_once_and_others_twice():
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
    ],
)
def test_what_was_measured_otherwise_is_not_joined(change):
    assert joined(row(**change)).empty


def test_other_models_are_not_joined():
    assert joined(row(), model="embedded").empty
    # The papers' count on LLaVA-NeXT is "of up to 5 tiles", ours is per image.
    assert joined(row(budget="160"), model="llava_next_7b").empty
    assert len(joined(row("full", budget=None), model="llava_next_7b")) == 1


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
    assert found.by_task == {"a": pytest.approx(2.0), "b": pytest.approx(0.2)}
    assert found.needing == ["a"]
    assert found.retained["divprune @64"] == 80.0
    assert contribution(frame, table.head(0)) is None
