"""experiments/published.csv: complete, and the papers' averages follow from their rows."""

from pathlib import Path

import pandas as pd
import pytest

PATH = Path(__file__).parents[2] / "experiments" / "published.csv"
KEY = ["source", "table", "model", "budget", "method", "variant"]


@pytest.fixture(scope="module")
def published():
    return pd.read_csv(PATH, keep_default_na=False)


def test_every_number_has_its_source_protocol_and_unit(published):
    assert len(published) > 1000
    for column in published.columns.drop("variant"):
        assert (published[column].astype(str) != "").all(), column
    assert not published.duplicated([*KEY, "benchmark"]).any()
    assert set(published["source"]) == {"poster", "supplement"}
    assert set(published["protocol"]) == {"nine", "eight_without_vqav2"}
    assert published["value"].between(20, 2800).all()


def test_one_benchmark_id_never_mixes_two_benchmarks(published):
    assert (published.groupby("benchmark_id")["benchmark"].nunique() == 1).all()
    seed = published[published["benchmark"] == "seedbench"].groupby("model")["benchmark_id"].unique()
    assert seed["LLaVA-1.5-7B"].tolist() == ["seedbench_all"]
    assert seed["LLaVA-1.5-13B"].tolist() == ["seedbench_image"]


def test_averages_are_the_mean_of_value_over_full_value(published):
    """The definition of "retained average" that `report.bootstrap.retained` uses, on every published row."""
    full = published[published["method"] == "full"].groupby(["model", "benchmark"])["value"].first()
    checked = 0
    for key, row in published[published["method"] != "full"].groupby(KEY):
        values = row.set_index("benchmark")["value"]
        if "avg" not in values:
            continue
        average = values.pop("avg")
        shares = [100 * value / full[key[2], name] for name, value in values.items()]
        assert sum(shares) / len(shares) == pytest.approx(average, abs=0.0501), key
        checked += 1
    assert checked > 100
