"""From records to numbers: hand-computed values and properties of the tables."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from made_up_run import TASKS, arms, known

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.report.run_document import latex_document
from zoo_exp.report.tables import kept_count, legend
from zoo_exp.runs.reading import read_records, read_timings
from zoo_exp.statistics.results import compute
from zoo_exp.tasks.gqa import GQA
from zoo_exp.tasks.metric import TaskMetric


def results_of(run, records=None, **changes):
    options = {"draws": 300, "tasks": known(), "arms": arms()} | changes
    records = read_records(run) if records is None else records
    return compute("made_up", records, read_timings(run), **options)


def metric_of(task, part):
    """The main metric of some records of one arm, as the task gives it."""
    rows = [{"sample_id": i, **parts} for i, parts in zip(part["sample_id"], part["parts"], strict=True)]
    return tasks.get(task).aggregate(rows)[tasks.get(task).main_metric]


def line(results, arm, task):
    frame = results.frame
    (found,) = frame[(frame["arm"] == arm) & (frame["task"] == task)].to_dict("records")
    return found


def test_every_arm_has_a_row_per_task_and_an_average(make_run):
    results = results_of(make_run())
    labels = ["full", "zoo multiply @16", "zoo none @16", "random @16 (2 seeds)", "blind"]
    assert results.frame["arm"].drop_duplicates().tolist() == labels
    assert results.frame["task"].tolist() == [*TASKS, "average"] * 5
    assert results.notes == []


def test_numbers_by_hand(make_run):
    run = make_run()
    records, results = read_records(run), results_of(run)
    shares = []
    for task in TASKS:
        mine = records[records["task"] == task]
        value = {arm: metric_of(task, part) for arm, part in mine.groupby("arm_id")}
        row = line(results, "zoo none @16", task)
        assert row["value"] == pytest.approx(value["zoo none @16-0"])
        assert row["retained"] == pytest.approx(100 * value["zoo none @16-0"] / value["full-0"])
        assert row["low"] < row["value"] < row["high"]
        assert (row["n"], row["images"], row["kept_tokens"], row["n_visual"]) == (120, 40, 16, 144)
        assert (row["select_ms"], row["prefill_decode_ms"], row["vision_ms"]) == (0.5, 10.0, 2.0)
        shares.append(row["retained"])
        seeds = [value["random @16-0"], value["random @16-1"]]
        random = line(results, "random @16 (2 seeds)", task)
        assert random["value"] == pytest.approx(np.mean(seeds))
        assert random["seed_sd"] == pytest.approx(np.std(seeds, ddof=1))
    average = line(results, "zoo none @16", "average")
    assert average["retained"] == pytest.approx(np.mean(shares))
    assert average["retained_low"] < average["retained"] < average["retained_high"]
    scores = records[records["arm"] == "zoo none @16"].groupby("task")["score"].mean()
    assert average["value"] == pytest.approx(scores.mean())
    full = line(results, "full", "average")
    assert (full["retained"], full["retained_low"], full["retained_high"]) == (100, 100, 100)


def test_each_metric_gets_its_kind_of_interval(make_run):
    results = results_of(make_run())
    assert line(results, "full", "embedded_gqa")["interval"] == "Wilson by image"
    # F1 is no proportion, VQA scores are no right or wrong, and seeds are averaged.
    assert line(results, "full", "embedded_pope")["interval"] == "bootstrap by image"
    assert line(results, "full", "embedded_vqav2")["interval"] == "bootstrap by image"
    assert line(results, "random @16 (2 seeds)", "embedded_gqa")["interval"] == "bootstrap by image"


def test_same_records_in_any_order_give_the_same_results(make_run):
    run = make_run()
    records = read_records(run)
    shuffled = records.sample(frac=1, random_state=1).reset_index(drop=True)
    first, second = results_of(run), results_of(run, shuffled)
    pd.testing.assert_frame_equal(first.frame, second.frame)
    pd.testing.assert_frame_equal(first.comparisons, second.comparisons)


def test_a_task_has_the_same_intervals_beside_other_tasks(make_run):
    run = make_run()
    both, alone = results_of(run), results_of(run, tasks=known()[:1])
    keep = ["value", "low", "high", "retained", "retained_low", "retained_high"]
    pick = [r.frame[r.frame["task"] == TASKS[0]][keep].reset_index(drop=True) for r in (both, alone)]
    pd.testing.assert_frame_equal(*pick)


def test_bold_rows_are_significant(make_run):
    run = make_run()
    results = results_of(run)
    assert line(results, "zoo multiply @16", "average")["best"]
    assert results.frame[results.frame["task"] == "average"]["best"].sum() == 1
    # With one question per image and few images, nothing can be told apart.
    few = read_records(run).groupby(["task", "arm_id"]).head(4)
    assert not results_of(run, few).frame["best"].any()
    # An arm that answers exactly as the best one does takes the bold print away.
    records = read_records(run)
    copy = records[records["arm"] == "zoo multiply @16"].assign(arm="twin @16", arm_id="twin")
    twin = {"arm": "twin @16", "arm_id": "twin", "selector": "twin", "budget": "16"}
    tied = results_of(run, pd.concat([records, copy]), arms=[*arms(), twin])
    assert not tied.frame["best"].any()


def test_rows_above_their_budget_are_excluded_from_comparisons(make_run):
    """A layer selector's mean over layers can stand far above the budget that it is listed under."""
    run = make_run()
    records = read_records(run)
    copy = records[records["arm"] == "full"].assign(arm="deep @16", arm_id="deep", kept_tokens=40)
    deep = {"arm": "deep @16", "arm_id": "deep", "selector": "deep", "budget": "16"}
    results = results_of(run, pd.concat([records, copy]), arms=[*arms(), deep])
    row, usual = (line(results, arm, "average") for arm in ("deep @16", "zoo multiply @16"))
    assert row["retained"] > usual["retained"]
    assert (row["above_budget"], row["best"], usual["above_budget"], usual["best"]) == (
        True,
        False,
        False,
        True,
    )
    assert "deep @16" not in {*results.comparisons["arm"], *results.comparisons["against"]}
    assert kept_count(row) == "40\u2021"
    assert any("not compared within that budget" in text for text in legend(results))
    assert not any("not compared" in text for text in legend(results_of(run)))


def test_comparisons_are_against_the_best_of_the_budget(make_run):
    results = results_of(make_run())
    pairs = results.comparisons.set_index("against")
    assert set(pairs.index) == {"zoo none @16", "random @16 (2 seeds)"}
    assert set(pairs["arm"]) == {"zoo multiply @16"}
    none = pairs.loc["zoo none @16"]
    best, other = (line(results, arm, "average")["retained"] for arm in ("zoo multiply @16", "zoo none @16"))
    assert none["difference"] == pytest.approx(best - other)
    assert none["low"] < none["difference"] < none["high"]
    assert none["p_value"] < 0.01
    assert none["only_arm_right"] > none["only_against_right"]
    assert none["p_value"] <= none["p_holm"] <= 2 * none["p_value"]
    assert pairs.loc["random @16 (2 seeds)", "p_value"] < 0.01  # twice the median of its seeds'


@dataclass(frozen=True)
class NeedsPairs(GQA):
    """A task whose metric cannot be computed."""

    def tallies(self, rows):
        """Refuse."""
        raise InvalidValueError("an image has one question of its two")


def test_a_task_whose_metric_cannot_be_computed_is_excluded(make_run):
    run = make_run()

    results = results_of(
        run,
        tasks=[tasks.get(TASKS[0]), NeedsPairs(TASKS[1], tasks.DataSource("", "test")), tasks.get(TASKS[2])],
        draws=50,
    )
    assert results.tasks == [TASKS[0], TASKS[2]]
    assert results.notes == [
        f"{TASKS[1]}: excluded, because its metric cannot be computed: an image has one question of its two"
    ]


def test_responses_for_a_server_have_no_metric(make_run):
    run = make_run()
    hidden = replace(tasks.get("vqav2_testdev"), name=TASKS[2])
    results = results_of(run, tasks=[*known()[:2], hidden], draws=50)
    assert results.tasks == TASKS[:2]
    assert "only the benchmark's server can score its responses" in results.notes[0]


def test_an_image_with_a_missing_response_is_excluded(make_run):
    run = make_run()
    records = read_records(run)
    gap = (records["arm"] == "full") & (records["task"] == TASKS[0]) & (records["sample_id"] == "004-1")
    results = results_of(run, records[~gap])
    assert (line(results, "full", TASKS[0])["n"], line(results, "full", TASKS[0])["images"]) == (117, 39)


def test_an_unfinished_run_is_compared_on_common_questions_with_a_note(make_run):
    run = make_run()
    records = read_records(run)
    late = (records["arm"] == "blind") & (records["task"] == TASKS[0]) & (records["sample_id"] >= "020")
    results = results_of(run, records[~late])
    assert line(results, "full", TASKS[0])["n"] == 60
    assert line(results, "full", TASKS[1])["n"] == 120
    gap, few = results.notes
    assert "embedded_gqa: 60 of 120 questions are excluded" in gap
    assert few.startswith(
        "fewer than 100 units (questions, MME pairs, MMBench groups) in embedded_gqa (60): "
    )


def test_an_arm_without_records_is_named_and_has_no_average(make_run):
    run = make_run()
    records = read_records(run)
    missing = (records["arm"] == "zoo none @16") & (records["task"] == TASKS[0])
    results = results_of(run, records[~missing])
    assert results.notes == ["embedded_gqa: no records yet for zoo none @16"]
    assert np.isnan(line(results, "zoo none @16", TASKS[0])["value"])
    assert np.isnan(line(results, "zoo none @16", "average")["retained"])
    assert line(results, "zoo none @16", TASKS[1])["value"] > 0
    assert line(results, "full", TASKS[0])["n"] == 120


def test_a_row_with_a_missing_seed_has_no_value(make_run):
    run = make_run()
    records = read_records(run)
    results = results_of(run, records[records["arm_id"] != "random @16-1"])
    assert np.isnan(line(results, "random @16 (2 seeds)", "average")["retained"])
    assert len(results.notes) == len(TASKS)


def test_arms_without_times_beside_timed_ones_are_named(make_run):
    run = make_run()
    lines = (run / "timings.jsonl").read_text().splitlines(keepends=True)
    (run / "timings.jsonl").write_text("".join(row for row in lines if '"full"' not in row))
    assert any(note.startswith("no times for full:") for note in results_of(run).notes)
    (run / "timings.jsonl").write_text("")
    assert any(note.startswith("no times for any arm:") for note in results_of(run).notes)


def test_without_full_there_is_no_retained_average(make_run):
    run = make_run()
    results = results_of(run, arms=[arm for arm in arms() if arm["arm"] != "full"])
    assert results.frame["retained"].isna().all()
    assert results.comparisons.empty
    assert "no arm 'full'" in results.notes[0]


def test_questions_without_an_image_do_not_count_as_kept_tokens(make_run):
    run = make_run()
    records = read_records(run)
    text_only = records["sample_id"] < "010"
    records.loc[text_only, ["kept_tokens", "n_visual"]] = 0
    assert line(results_of(run, records), "zoo none @16", TASKS[0])["kept_tokens"] == 16


def test_arms_come_from_the_records_where_none_are_given(make_run):
    run = make_run()
    pd.testing.assert_frame_equal(results_of(run, arms=[]).frame, results_of(run).frame)


def test_no_records_of_the_tasks(make_run):
    with pytest.raises(MissingFileError, match=r"no records of its tasks \(other\)"):
        results_of(make_run(), tasks=[replace(known()[0], name="other")])


@dataclass(frozen=True)
class OtherMetric(GQA):
    """A task that does not give its main metric."""

    main_metric: str = "bleu"

    def metrics(self, sums):
        """Another metric than the main one."""
        return {"accuracy": sums["score"] / sums["n"]}


def test_a_main_metric_that_the_task_does_not_give(make_run):
    with pytest.raises(InvalidValueError, match="has no metric 'bleu': its metrics are accuracy"):
        results_of(make_run(), tasks=[OtherMetric(TASKS[0], tasks.DataSource("", "test"))])


def test_values_equal_the_live_metric_of_the_task_exactly(make_run):
    """The torchmetrics metric that a run updates while it answers, and the table made from the records."""
    run = make_run()
    records, results = read_records(run), results_of(run)
    for task in known():
        for arm, part in records[records["task"] == task.name].groupby("arm"):
            if arm.startswith("random"):
                continue
            metric = TaskMetric(task)
            metric.update(part["sample_id"].tolist(), part["parts"].tolist())
            assert metric.compute()[task.main_metric] == line(results, arm, task.name)["value"]


def test_pope_and_counting_questions_have_details(make_run):
    details = results_of(make_run()).details
    pope = details[
        (details["task"] == "embedded_pope") & (details["arm"] == "full") & (details["group"] == "")
    ]
    found = pope.set_index("metric")["value"]
    assert list(found.index) == ["accuracy", "precision", "recall", "yes_rate"]
    run = read_records(make_run())
    mine = run[(run["task"] == "embedded_pope") & (run["arm"] == "full")]["parts"].tolist()
    yes = [part["prediction"] == "yes" for part in mine]
    gold = [part["ground_truth"] == "yes" for part in mine]
    hits = sum(a and b for a, b in zip(yes, gold, strict=True))
    assert found["yes_rate"] == pytest.approx(np.mean(yes))
    assert (found["precision"], found["recall"]) == pytest.approx((hits / sum(yes), hits / sum(gold)))
    assert set(pope["unit"]) == {"fraction"}
    seeds = details[details["arm"] == "random @16 (2 seeds)"]
    assert set(seeds["task"]) == {"embedded_pope"}


def test_few_discordant_answers_are_not_bold(make_run):
    """An interval above 0 is not enough: with 5 to 0 discordant answers the exact test gives p = 0.06."""
    run = make_run(per_image=3)
    records = read_records(run)
    records = records[
        (records["task"] == TASKS[0]) & records["arm"].isin(["full", "zoo multiply @16"])
    ].copy()
    shown = [arm for arm in arms() if arm["arm"] in ("full", "zoo multiply @16")]
    one = records["arm"] == "zoo multiply @16"
    for n, bold in ((4, False), (5, False), (6, True), (12, True)):
        twin = records[one].assign(arm="twin @16", arm_id="twin", selector="twin")
        first = set(records[one]["sample_id"].sort_values().iloc[:: 120 // n][:n])
        better = twin.assign(score=1.0, parts=[{"score": 1.0}] * len(twin))
        worse = [0.0 if sample in first else 1.0 for sample in twin["sample_id"]]
        mine = records[one].assign(score=worse, parts=[{"score": score} for score in worse])
        both = [*shown, {"arm": "twin @16", "arm_id": "twin", "selector": "twin", "budget": "16"}]
        full = records[~one].assign(score=1.0, parts=[{"score": 1.0}] * int((~one).sum()))
        results = results_of(run, pd.concat([full, mine, better]), arms=both, tasks=known()[:1], draws=1000)
        assert (line(results, "twin @16", "average")["best"], n) == (bold, n)
        (pair,) = results.comparisons.to_dict("records")
        assert (pair["only_arm_right"], pair["only_against_right"], pair["significant"]) == (n, 0, bold)


def test_an_average_that_is_undefined_because_full_scores_0_is_explained(make_run):
    run = make_run(images=8, per_image=1)
    records = read_records(run)
    full = (records["arm"] == "full") & (records["task"] == TASKS[0])
    records.loc[full, "score"] = 0.0
    records.loc[full, "parts"] = pd.Series([{"score": 0.0}] * int(full.sum()), records.index[full])
    results = results_of(run, records)
    assert np.isnan(line(results, "zoo none @16", "average")["retained"])
    (note,) = [note for note in results.notes if "full scores 0" in note]
    assert f"full scores 0 in {TASKS[0]}," in note
    assert f"task=[{TASKS[1]},{TASKS[2]}]" in note
    assert "full scores 0 in embedded" in latex_document(results).split("\\begin{table")[0]


@pytest.mark.parametrize(("limit", "more"), [(None, False), (8, True), (50, False)])
def test_more_units_are_asked_for_only_where_the_data_has_more(make_run, limit, more):
    """A task with fewer units than the limit has given all that it has."""
    notes = results_of(make_run(images=8, per_image=1), limit=limit).notes
    (few,) = (note for note in notes if note.startswith("fewer than"))
    assert few.endswith("increase the limit") == more


def test_an_average_without_an_interval_is_explained(make_run):
    run = make_run(images=8, per_image=1)
    records = read_records(run)
    full = (records["arm"] == "full") & (records["task"] == TASKS[0])
    right = [float(sample == "000-0") for sample in records[full]["sample_id"]]
    records.loc[full, "score"] = right
    records.loc[full, "parts"] = pd.Series([{"score": score} for score in right], records.index[full])
    results = results_of(run, records)
    assert np.isnan(line(results, "zoo none @16", "average")["retained_low"])
    assert any(
        "no interval for retained averages" in note and TASKS[0] in note and TASKS[2] not in note
        for note in results.notes
    )
