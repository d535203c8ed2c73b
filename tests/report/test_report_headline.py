"""The sentences above each table: the result with its uncertainty."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from made_up_run import arms, known

from zoo_exp.report.headline import Headline, headline
from zoo_exp.runs.reading import read_records
from zoo_exp.statistics.results import compute

TIMINGS = pd.DataFrame(columns=["task", "arm", "select_ms", "prefill_decode_ms", "vision_ms"])


@pytest.fixture
def compute_some(make_run):
    """Function: results of a made-up run with some arms, on some images."""

    def make(images=40, without=()):
        run = make_run(images)
        records = read_records(run)
        shown = [arm for arm in arms() if arm["selector"] not in without and arm["arm"] not in without]
        records = records[records["arm_id"].isin([arm["arm_id"] for arm in shown])]
        return compute("made_up", records, TIMINGS, known(), shown, draws=300)

    return make


def test_a_clear_leader_is_significantly_better(compute_some):
    results = compute_some()
    found = headline(results)
    row = results.lines["zoo multiply @16"]["average"]
    assert (found.arm, found.kept, found.n_visual) == ("zoo multiply @16", 16, 144)
    assert (found.retained, found.low, found.high) == pytest.approx(
        (row["retained"], row["retained_low"], row["retained_high"])
    )
    assert found.ahead
    assert found.rivals == ()
    first, second, third = found.sentences()
    assert first.startswith("With 16 of 144 visual tokens (11 %), zoo multiply @16 retains ")
    assert "better than every other arm" in second
    assert third.startswith("Difference to random selection: +")


def test_with_few_questions_no_difference_is_significant(compute_some):
    results = compute_some(images=6)
    found = headline(results)
    assert not found.ahead
    assert found.rivals
    assert found.sentences()[1].startswith("Not significantly different from zoo none @16 (+")
    assert "]" in found.rivals[0][1]
    told = set(results.comparisons.loc[~results.comparisons["significant"].astype(bool), "against"])
    assert {name for name, _ in found.rivals} <= told


def test_an_interval_that_excludes_0_has_the_p_value_that_says_why_it_is_not_significant(compute_some):
    results = compute_some(images=6)
    pairs = results.comparisons.assign(low=6.7, high=49.4, difference=30.0, p_holm=0.281, significant=False)
    sentence = headline(replace(results, comparisons=pairs)).sentences()[1]
    assert "(+30.0 [+6.7, +49.4], but p = 0.281 after Holm's correction)" in sentence


def test_without_a_full_arm_or_a_budget_there_is_none(compute_some):
    assert headline(compute_some(without=("full",))) is None
    assert headline(compute_some(without=("zoo", "random"))) is None


def test_a_single_arm_has_no_comparison(compute_some):
    found = headline(compute_some(without=("zoo none @16", "random")))
    assert (found.arm, found.ahead, found.rivals, found.random) == ("zoo multiply @16", False, (), "")
    assert len(found.sentences()) == 1


def test_without_intervals_significance_is_not_mentioned():
    rivals = (("zoo none @16", "+21.1"),)
    found = Headline("zoo @16", 16, 144, 92.0, math.nan, math.nan, False, rivals, "", math.nan)
    assert (
        found.sentences()[1] == "Too few questions for intervals of the differences to zoo none @16 (+21.1)."
    )
    known = replace(found, rivals=(("zoo none @16", "+1.1 [-0.5, +2.0]"),))
    assert known.sentences()[1] == "Not significantly different from zoo none @16 (+1.1 [-0.5, +2.0])."
    assert (found.verdict, known.verdict) == ("no intervals", "tied with 1")
