"""Every golden row of the reference evaluator, through the public interface of the tasks."""

import json
import random
from pathlib import Path

import pytest

from zoo_exp import tasks
from zoo_exp.tasks import mmmu
from zoo_exp.tasks.mmbench import Rotation, circular, extract_letter, prefetch
from zoo_exp.tasks.scoring import evalai
from zoo_exp.tasks.scoring.text import yes_no_prefix
from zoo_exp.tasks.scoring.yes_no import pope_counts

GOLDEN = Path(__file__).parents[1] / "golden" / "scoring"
FILES = {
    "gqa": "gqa",
    "vqav2_val": "vqav2_val",
    "textvqa_val": "textvqa_val",
    "scienceqa_img": "scienceqa_img",
    "pope": "pope",
    "mme": "mme",
    "mmbench_en_dev_static": "mmbench_en_dev",
    "mmmu_val": "mmmu_val",
    "mmmu_val_serial": "mmmu_val",
    "seedbench": "seedbench",
}


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def scored(name):
    task, data = tasks.get(name), golden(FILES[name])
    rows = []
    for number, case in enumerate(data["cases"]):
        doc = {**case["doc"], "row": number}
        rows.append({"sample_id": task.sample_id(doc), **task.score(doc, case["response"])})
    return task, data, rows


def expected_score(case):
    """The one number of a case, wherever the evaluator put it."""
    per_sample = case.get("per_sample", {})
    for key in ("exact_match", "score"):
        if key in per_sample:
            return per_sample[key]
    nested = [value["score"] for value in per_sample.values() if isinstance(value, dict) and "score" in value]
    return nested[0] if nested else case.get("correct_single", per_sample.get("correct"))


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("mmbench")])
def test_every_row_scores_as_the_reference_scored_it(name):
    _, data, rows = scored(name)
    compared = 0
    for case, row in zip(data["cases"], rows, strict=True):
        if "RANDOM_FALLBACK" in case.get("flags", ()):
            assert row["drawn_from"] == case["random"]["choices"], case["id"]
            continue
        assert row["score"] == pytest.approx(float(expected_score(case)), abs=1e-9), case["id"]
        compared += 1
    assert compared == len(rows) - sum("RANDOM_FALLBACK" in case.get("flags", ()) for case in data["cases"])
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gqa", ["exact_match"]),
        ("vqav2_val", ["exact_match"]),
        ("textvqa_val", ["exact_match"]),
        ("scienceqa_img", ["exact_match"]),
        ("mme", ["mme_perception_score", "mme_cognition_score"]),
        ("seedbench", ["seed_image", "seed_video", "seed_all"]),
    ],
)
def test_aggregates_are_the_references(name, keys):
    task, data, rows = scored(name)
    metrics = task.aggregate(rows)
    for key in keys:
        assert metrics[key] == pytest.approx(data["aggregate"][key], abs=1e-9)


def test_pope_aggregates_pooled_and_by_category():
    task, data, rows = scored("pope")
    assert task.aggregate(rows) == pytest.approx(data["aggregate"]["all"], abs=1e-9)
    for category, numbers in task.breakdown(rows).items():
        assert numbers == pytest.approx(data["aggregate"][category], abs=1e-9)


def test_pope_aggregates_of_degenerate_answers():
    task = tasks.get("pope")
    for case in golden("pope")["degenerate"].values():
        pairs = [(p.strip().lower(), g) for p, g in zip(case["pred"], case["gt"], strict=True)]
        totals = [pope_counts(*pair) for pair in pairs]
        sums = {key: sum(counts[key] for counts in totals) for key in totals[0]}
        assert task.metrics(sums) == pytest.approx(case["aggregate"], abs=1e-9)


def test_mme_parser_and_categories():
    for case in golden("mme")["parse_only"]:
        assert yes_no_prefix(case["response"]) == case["parsed"], case
    task, data, rows = scored("mme")
    for category, numbers in task.breakdown(rows).items():
        want = data["per_category"][category]
        assert numbers["score"] == pytest.approx(want["score_from_lmms_eval"], abs=1e-9)
        assert numbers["acc"] == pytest.approx(want["acc_derived"], abs=1e-9)
        assert numbers["acc_plus"] == pytest.approx(want["acc_plus_derived"], abs=1e-9)


def test_vqa_normalisers_step_by_step():
    for case in golden("textvqa_val")["normalizer_cases"]:
        assert evalai.normalize_textvqa(case["in"]) == case["call"]
        assert evalai.remove_punctuation(case["in"]) == case["punct_only"]
        assert evalai.normalize_words(case["in"]) == case["digit_article_only"]
    for name, normalize in (
        ("vqav2_val", evalai.normalize_vqa),
        ("textvqa_val", evalai.normalize_textvqa),
    ):
        for case in golden(name)["cases"]:
            assert normalize(case["response"]) == case["normalized_prediction"], case["id"]
            assert [normalize(a) for a in case["doc"]["answers"]] == case["normalized_answers"], case["id"]


def test_vqa_test_answers_are_submitted_unchanged():
    task = tasks.get("vqav2_testdev")
    for row in golden("vqav2_val")["vqav2_test_submission"]["rows"]:
        want = row["per_sample"]["submission"]
        parts = task.score({"question_id": want["question_id"]}, row["response"])
        assert {key: parts[key] for key in want} == want


def test_word_tables_are_the_references():
    want = golden("evalai_tables")
    assert want["contractions"] == evalai.CONTRACTIONS
    assert want["number_map"] == evalai.NUMBERS
    assert set(want["articles"]) == evalai.ARTICLES
    assert tuple(want["punctuation_in_order"]) == evalai.PUNCTUATION


def test_mmbench_letters():
    for case in golden("mmbench_en_dev")["cases"]:
        options = {letter: case["doc"][letter] for letter in "ABCD"}
        letters = [letter for letter in options if options[letter] is not None]
        assert prefetch(case["response"], options) == case["prefetch"], case["id"]
        assert extract_letter(case["response"], letters) == case["static_extract"], case["id"]


def test_mmbench_static_score_hits_and_categories():
    task, data, rows = scored("mmbench_en_dev_static")
    want = data["aggregate"]["static"]
    assert task.aggregate(rows)["gpt_eval_score"] == pytest.approx(want["score"], abs=1e-9)
    hits = {tally.unit: tally.counts["hit"] for tally in task.tallies(rows)}
    assert hits == want["hits"]
    groups = {name: numbers["accuracy"] for name, numbers in task.breakdown(rows).items()}
    level_two = {f"L2/{name}": value for name, value in want["l2_category"].items()}
    assert groups == pytest.approx({**want["category"], **level_two}, abs=1e-9)


@pytest.mark.parametrize("mode", ["openai_api_down", "openai_fake_judge"])
def test_mmbench_circular_evaluation_under_a_judge(mode):
    """The reference asks a judge three times, then draws; who is asked in which order decides every draw."""
    data = golden("mmbench_en_dev")
    want = data["aggregate"][mode]
    cases = {case["doc"]["index"]: case for case in data["cases"]}
    draws = random.Random(2680)
    drawn = []

    def judge(row):
        case = cases[row.index]
        replies = want.get("judge_table", {})
        reply = replies.get(case["response"].strip(), want.get("default_reply"))
        letter = prefetch(reply, {x: case["doc"][x] for x in "ABCD"}) if reply else None
        if letter is None:
            drawn.append(draws.randint(0, 4))
            letter = "ABCDE"[drawn[-1]]
        return letter

    shuffled = [Rotation(i, case["doc"]["answer"], case["prefetch"]) for i, case in cases.items()]
    random.Random(1).shuffle(shuffled)
    hits = circular(shuffled, judge)
    assert {str(index): hit for index, hit in hits.items()} == want["hits"]
    assert 100 * sum(hits.values()) / len(hits) == pytest.approx(want["score"], abs=1e-9)
    if mode == "openai_api_down":
        assert drawn == [draw[2] for draw in want["random_draws"][1:]]


def test_mmmu_pieces():
    data = golden("mmmu_val")
    for case in data["extract_numbers"]:
        assert mmmu.extract_numbers(case["in"]) == case["out"]
    for case in data["normalize_str"]:
        assert repr(mmmu.normalize_open(case["in"])) == repr(case["out"])  # nan equals nothing, its repr does
    for case in data["list_gold"]:
        assert mmmu.open_is_right(mmmu.parse_open(case["response"]), case["answer"]) == case["correct"]
    for case in data["cases"]:
        if case["doc"]["question_type"] == "open":
            want = case["per_sample"]["parsed_pred_set"]
            assert set(map(repr, mmmu.parse_open(case["response"].strip()))) == set(map(repr, want))


def test_mmmu_letters_and_draws():
    task, data = tasks.get("mmmu_val"), golden("mmmu_val")
    for case in data["cases"]:
        if case["doc"]["question_type"] == "open":
            continue
        letters = task.letters(case["doc"])
        letter = mmmu.parse_choice(case["response"].strip(), letters)
        if "RANDOM_FALLBACK" in case.get("flags", ()):
            assert letter is None
            draws = [random.Random(seed).choice(list(letters)) for seed in range(10)]
            assert draws == case["random"]["preds_for_seeds_0_to_9"]
        else:
            assert [letter] == case["per_sample"]["parsed_pred"], case["id"]


def test_mmmu_aggregates():
    task, data, rows = scored("mmmu_val_serial")
    assert task.aggregate(rows)["mmmu_acc"] == data["serial_run_seed0"]["aggregate"]
    assert task.aggregate(rows[::-1])["mmmu_acc"] == data["serial_run_seed0"]["aggregate"]
    certain = [row for row in rows if not row["drawn_from"]]
    want = data["aggregate"]["mmmu_acc_without_random_cases"]
    assert tasks.get("mmmu_val").aggregate(certain)["mmmu_acc"] == want
    # The aggregate under seed 42 before every draw, with the golden per-sample results.
    golden_rows = [
        {**row, "score": float(case["per_sample"]["correct"]), "drawn_from": 0}
        for row, case in zip(rows, data["cases"], strict=True)
    ]
    assert tasks.get("mmmu_val").aggregate(golden_rows)["mmmu_acc"] == data["aggregate"]["mmmu_acc"]
    for subject, numbers in task.breakdown(golden_rows).items():
        assert numbers["accuracy"] == pytest.approx(
            data["aggregate"]["per_subdomain"][subject]["acc"], abs=1e-9
        )
