"""The unit of a metric is declared by the task and not derived from its values."""

import pandas as pd
import pytest

from zoo_exp import tasks
from zoo_exp.report import published
from zoo_exp.report.tables import display_scale
from zoo_exp.statistics.results import Results


def results_with(*values: tuple[str, float]) -> Results:
    frame = pd.DataFrame([{"arm": "blind", "task": task, "value": value} for task, value in values])
    return Results("x", [task for task, _ in values], frame, pd.DataFrame(), [], 1, 0)


def test_percents_and_points_below_one_are_not_multiplied():
    results = results_with(("embedded_mmbench", 0.9), ("mme", 0.5), ("embedded_gqa", 0.9))
    assert display_scale(results, "embedded_mmbench") == 1.0
    assert results.scales == {"embedded_mmbench": 1.0, "mme": 1.0, "embedded_gqa": 100.0, "average": 100.0}


def test_a_broken_run_is_compared_with_the_papers_in_their_unit():
    row = {"arm": "divprune @64", "selector": "divprune", "options": "{}", "task": "mmbench_en_dev_static"}
    frame = pd.DataFrame([{**row, "budget": "64", "value": 0.9, "low": 0.0, "high": 1.0}])
    table = published.join(frame, "llava15_7b", published.read())
    assert len(table)
    assert table["ours"].tolist() == [0.9] * len(table)


@pytest.mark.parametrize(
    ("name", "unit", "words"),
    [
        ("gqa", "fraction", "0-1"),
        ("pope", "fraction", "0-1"),
        ("mmbench_en_dev_static", "percent", "0-100"),
        ("mme", "points", "points of 2800"),
        ("vqav2_testdev", "answers", "answers"),
    ],
)
def test_tasks_declare_unit_and_range(name, unit, words):
    scale = tasks.get(name).scale
    assert (scale.unit, str(scale)) == (unit, words)
