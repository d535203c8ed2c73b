"""`tokens` on the embedded model: one row per question and arm, reproducible, and readable by the report."""

import io
import json

import pytest
from rich.console import Console

from zoo_exp.cli import main
from zoo_exp.config.compose import compose
from zoo_exp.embedded.benchmarks import rows as rows_of
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.token_analysis import inspect
from zoo_exp.report.token_rows import averages, read_tokens
from zoo_exp.tasks import data

WORDS = ["task=embedded_pope", "budget=16", "limit=2"]


def rows(tmp_path, *texts):
    experiment = compose([*WORDS, *texts, f"out={tmp_path}"])
    path = inspect(experiment, Console(file=io.StringIO()), samples=2)
    assert path.parent == experiment.run_dir
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_arm_is_compared_with_the_first_that_scores_tokens(tmp_path):
    found = rows(tmp_path, "selector=[random,feature_norm,divprune,zoo]", "selector.seeds=1")
    assert len(found) == 2 * 4
    assert {row["reference"] for row in found} == {"feature_norm @16"}
    by_arm = {row["arm"]: row for row in found}
    assert by_arm["feature_norm @16"]["spearman"] == 1.0
    assert by_arm["feature_norm @16"]["overlap"] == 1.0
    assert by_arm["divprune @16"]["spearman"] is None
    assert -1 <= by_arm["zoo multiply @16"]["spearman"] < 1
    assert all(1 <= row["effective_rank"] <= row["kept_tokens"] == 16 for row in found)
    table = averages(read_tokens(next(tmp_path.rglob("tokens.jsonl")).parent))
    assert table["images"].tolist() == [2, 2, 2, 2]


def test_the_same_seed_gives_the_same_rows(tmp_path):
    times = {"select_ms"}
    first, again = (
        [{k: v for k, v in row.items() if k not in times} for row in rows(tmp_path / name, "selector=zoo")]
        for name in ("a", "b")
    )
    assert first == again


def test_an_experiment_without_token_scores_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"no arm of custom scores tokens.*selector="):
        rows(tmp_path, "selector=[random,divprune]")


def test_a_count_below_one_is_refused(capsys):
    assert main(["tokens", "+exp=estimators", "--samples", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_a_task_with_fewer_questions_than_asked_gives_all_of_them(tmp_path, monkeypatch):
    """`--samples` is an upper bound, unlike `limit`."""
    monkeypatch.setattr(data, "_embedded", lambda task, limit: data._Listed(rows_of("pope", limit=1)))
    experiment = compose([*WORDS, "selector=zoo", f"out={tmp_path}"])
    path = inspect(experiment, Console(file=io.StringIO()), samples=50)
    assert len(path.read_text().splitlines()) == 1
