"""Fast scoring functions against slow, literal ones, and their properties."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError
from zoo_exp.tasks import data, mmbench, mmmu
from zoo_exp.tasks.scoring import evalai, text
from zoo_exp.tasks.scoring.vqa import answer_texts, soft_accuracy
from zoo_exp.tasks.scoring.yes_no import UnpairedError, mme_images

few = settings(max_examples=150, deadline=None)
ANSWERS = st.text(alphabet="aA bB.,;-'/1230\t\n?!()", max_size=12)
RESPONSES = st.text(alphabet="ABCDE abn.,:()\n'", max_size=16)


def slow_soft_accuracy(prediction, answers):
    values = []
    for i in range(len(answers)):
        others = answers[:i] + answers[i + 1 :]
        values.append(min(1.0, sum(other == prediction for other in others) / 3))
    return sum(values) / len(values)


@few
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.sampled_from("abcd"))
def test_soft_accuracy_is_the_leave_one_out_mean(answers, prediction):
    fast = soft_accuracy(prediction, answers, str)
    assert fast == pytest.approx(slow_soft_accuracy(prediction, answers), abs=1e-12)
    assert 0 <= fast <= 1


@pytest.mark.parametrize(("agree", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_accuracy_of_ten_annotators(agree, score):
    assert soft_accuracy("x", ["x"] * agree + ["y"] * (10 - agree), str) == pytest.approx(score, abs=1e-12)


def slow_punctuation(given_text):
    out = given_text
    for mark in evalai.PUNCTUATION:
        beside_blank = mark + " " in given_text or " " + mark in given_text
        if beside_blank or re.search(r"(?<=\d)(,)+(?=\d)", given_text):
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    kept, removed = "", 0
    for i, character in enumerate(out):
        followed = i + 1 < len(out) and re.match(r"\d", out[i + 1])
        if character == "." and not followed and removed < 32:
            removed += 1
        else:
            kept += character
    return kept


@few
@given(ANSWERS | st.text(max_size=20))
def test_punctuation_step_is_the_literal_one(sample):
    assert evalai.remove_punctuation(sample) == slow_punctuation(sample)


@few
@given(ANSWERS)
def test_normalised_text_is_lower_case_words_without_articles(sample):
    words = evalai.normalize_textvqa(sample)
    assert words == words.lower()
    assert not {"a", "an", "the"} & set(words.split())
    assert words == " ".join(words.split())


def test_vqa_answers_are_strings_or_dicts():
    assert answer_texts([{"answer": "a", "answer_id": 1}, "b"]) == ["a", "b"]
    with pytest.raises(InvalidValueError, match="must be a string, got 3"):
        answer_texts([3])
    with pytest.raises(InvalidValueError, match="no reference answers"):
        soft_accuracy("a", [], str)


@few
@given(st.text(max_size=8), st.text(max_size=8))
def test_exact_match_ignores_ascii_case_and_punctuation(prediction, gold):
    same = text.exact_match(prediction, prediction + "!") == 1.0
    assert same
    assert text.exact_match(prediction, gold) == text.exact_match(gold, prediction)
    padded = string.punctuation + prediction + string.punctuation
    assert text.exact_match(padded, gold) == text.exact_match(prediction, gold)


def test_exact_match_keeps_what_the_reference_keeps():
    assert text.exact_match("yes.", "yes")
    assert not text.exact_match("yes .", "yes")  # a blank stays
    assert not text.exact_match("the left", "left")
    assert not text.exact_match("two", "2")


@few
@given(RESPONSES)
def test_yes_no_prefix_looks_at_four_characters_only(response):
    assert text.yes_no_prefix("I.'d s" + response + " yes") == "other"
    assert text.yes_no_prefix("ayes" + response) == "yes"


@few
@given(RESPONSES, st.permutations("ABCD"))
def test_static_letter_does_not_depend_on_the_order_of_letters(response, letters):
    assert mmbench.extract_letter(response, letters) == mmbench.extract_letter(response, "ABCD")


@few
@given(RESPONSES)
def test_a_letter_is_found_only_if_it_is_there(response):
    letter = mmbench.extract_letter(response, "ABCD")
    assert (letter is not None) == any(x in response for x in "ABCD")
    assert letter is None or letter in response


def test_mmbench_questions_without_an_unrotated_row_do_not_count():
    rows = [mmbench.Rotation(mmbench.CYCLE + 1, "A", "A"), mmbench.Rotation(2, "A", "A")]
    assert mmbench.circular(rows, lambda row: None) == {2: 1}


def test_mmbench_uses_the_fallback_only_if_it_can_change_the_result():
    asked = []
    rows = [
        mmbench.Rotation(1, "A", None),
        mmbench.Rotation(1 + mmbench.CYCLE, "B", "C"),  # wrong: nobody needs to read row 1
        mmbench.Rotation(2, "A", None),
        mmbench.Rotation(2 + mmbench.CYCLE, "B", None),  # after row 2 is wrong
    ]
    assert mmbench.circular(rows, lambda row: asked.append(row.index) or "D") == {1: 0, 2: 0}
    assert asked == [2]


@few
@given(RESPONSES, st.integers(2, 5))
def test_mmmu_letter_is_an_option(response, n):
    options = dict(zip("ABCDE"[:n], ["cat", "dog", "bee", "ant", "fox"], strict=False))
    assert mmmu.parse_choice(response, options) in (*options, None)


def test_mme_images_need_their_pair():
    rows = [("color", "a", 1.0), ("color", "a", 0.0), ("count", "b", 1.0)]
    with pytest.raises(UnpairedError, match=r"image 'b' of count has 1 question.* complete pairs"):
        mme_images(rows)
    (image,) = mme_images(rows[:2])
    assert (image.accuracy, image.both_right, image.points) == (50, 0, 50)


def test_a_number_with_several_commas_is_a_number():
    """The reference's pattern takes a run of commas between digits, wherever in the text it is."""
    assert evalai.remove_punctuation("a;b 1,,2") == "ab 12"
    assert evalai.remove_punctuation("a;b 1,,c") == "a b 1  c"


CLOSED = [f"embedded_{name}" for name in ("pope", "mme", "scienceqa", "mmbench", "mmmu", "seedbench")]


def first_row(name):
    return next(iter(data.load(tasks.get(name), limit=1)))


def test_every_task_with_closed_answers_says_what_it_asks_for():
    scored = [task for task in map(tasks.get, tasks.available()) if not task.submission_only]
    forms = {task.family: task.answer_form for task in scored}
    choice = dict.fromkeys(("scienceqa", "mmbench", "mmmu", "seedbench"), "the letter of an option")
    yes_no = dict.fromkeys(("pope", "mme"), "yes or no")
    assert {family: form for family, form in forms.items() if form} == {**choice, **yes_no}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("response", ["", "zzz", "?", "42 zzz", "Ünö", " . ", "zzz yesterday"])
def test_a_response_without_an_answer_is_marked(name, response):
    assert tasks.get(name).score(first_row(name), response)["unreadable"] is True


@pytest.mark.parametrize("name", CLOSED)
def test_right_answers_are_not_marked(name):
    task, row = tasks.get(name), first_row(name)
    right = task.reference(row).split(".")[0]
    parts = task.score(row, f" {right}\n")
    assert parts["score"] == 1
    assert "unreadable" not in parts


@few
@given(
    st.sampled_from(CLOSED), RESPONSES | st.sampled_from(["yes", "no", "Yes.", "no way", "A", "b.", "C) it"])
)
def test_what_scores_is_readable(name, response):
    """But for what the references do: SEED-Bench reads one character of a word, MMMU draws unreadable choices."""
    task = tasks.get(name)
    parts = task.score(first_row(name), response)
    if parts["score"] == 1 and task.family == "seedbench":
        assert not parts.get("unreadable") or response.strip()[1:2].isalpha()
    elif parts["score"] == 1:
        assert not parts.get("unreadable") or parts.get("drawn_from")


@pytest.mark.parametrize("name", ["embedded_gqa", "embedded_vqav2", "embedded_textvqa"])
def test_any_text_answers_an_open_question(name):
    assert "unreadable" not in tasks.get(name).score(first_row(name), "")
