"""Invalid results of a selector are refused by the base class, with the class's name, and never evaluated."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.cli import main
from zoo_exp.core.budget import Budget
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.answering import Ratings, select
from zoo_exp.selectors.base import GreedySelector, ScoreSelector, Selector
from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector

N, K = 20, 6
GOOD = torch.arange(float(N))


def with_value(value, dtype=torch.float32):
    scores = GOOD.clone().to(dtype)
    scores[7] = value
    return scores


SCORES = {
    "short": GOOD[:5],
    "long": torch.zeros(N + 1),
    "empty": torch.zeros(0),
    "a number": torch.tensor(1.0),
    "a row": GOOD[None],
    "a column": GOOD[:, None],
    "nan": with_value(float("nan")),
    "inf": with_value(float("inf")),
    "-inf": with_value(float("-inf")),
    "nan in half": with_value(float("nan"), torch.float16),
    "all nan": torch.full((N,), float("nan")),
    "complex": GOOD.to(torch.complex64),
    "list": GOOD.tolist(),
    "numpy": GOOD.numpy(),
    "float": 1.0,
}
PICKS = {
    "too few": torch.arange(K - 1),
    "too many": torch.arange(K + 1),
    "none": torch.arange(0),
    "twice": torch.tensor([0, 1, 2, 3, 4, 4]),
    "out of range": torch.tensor([0, 1, 2, 3, 4, N]),
    "negative": torch.tensor([0, 1, 2, 3, 4, -1]),
    "mask": torch.arange(N) < K,
    "floats": torch.arange(float(K)),
    "int32": torch.arange(K, dtype=torch.int32),
    "two-dimensional": torch.arange(K)[None],
    "list": list(range(K)),
    "None": None,
    "selection": Selection(torch.arange(K - 1)),
}


def tokens(tiles=None):
    return VisualTokens(projected=torch.randn(N, 8, generator=torch.Generator().manual_seed(0)), tile=tiles)


def scorer(base, answer):
    @dataclass(frozen=True)
    class MyScores(base):
        name: ClassVar[str] = "mine"

        def score(self, tokens, generator):
            return answer

    return MyScores()


def picker(answer):
    @dataclass(frozen=True)
    class MyPicks(Selector):
        name: ClassVar[str] = "mine"

        def pick(self, tokens, scores, k, generator):
            return answer

    return MyPicks()


WAYS = {
    "select": lambda one: one.select(tokens(), K, torch.Generator()),
    "select_many": lambda one: one.select_many([tokens()] * 2, K, [torch.Generator()] * 2),
    "answering": lambda one: select(one, [[tokens()]], Budget(count=K), ["a"], ratings=Ratings()),
    "tiles": lambda one: one.select(tokens(torch.arange(N) // 10), K, torch.Generator()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", [ScoreSelector, GreedySelector])
@pytest.mark.parametrize("kind", SCORES)
def test_scores_that_are_not_n_finite_numbers_are_refused(kind, base, way):
    with pytest.raises(InvalidValueError, match=r"selector mine \(MyScores\)") as caught:
        WAYS[way](scorer(base, SCORES[kind]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_scores_of_any_number_type_are_taken(dtype):
    kept = WAYS["select"](scorer(ScoreSelector, GOOD.to(dtype)))
    assert kept.indices.tolist() == list(range(N - K, N))


@pytest.mark.parametrize("way", ["select", "select_many", "answering"])
@pytest.mark.parametrize("kind", PICKS)
def test_picks_that_are_not_k_different_tokens_are_refused(kind, way):
    with pytest.raises(InvalidValueError, match=r"selector mine \(MyPicks\)") as caught:
        WAYS[way](picker(PICKS[kind]))
    assert "\n" not in str(caught.value)


def test_picks_in_any_order_are_taken():
    assert WAYS["select"](picker(torch.tensor([9, 1, 5, 0, 3, 2]))).indices.tolist() == [0, 1, 2, 3, 5, 9]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        torch.arange(3),
        LayerAnswer(torch.arange(5)),
        LayerAnswer(torch.tensor([0, 0])),
        LayerAnswer(torch.tensor([0, 9])),
        LayerAnswer(torch.tensor([-1, 0])),
        LayerAnswer([0, 1]),
        LayerAnswer(torch.tensor([0, 1]), torch.full((1, 4), float("nan"))),
        LayerAnswer(torch.tensor([0, 1]), torch.zeros(4)),
    ],
)
def test_answers_of_layer_selectors_are_checked(answer):
    class MyLayers(LayerSelector):
        name: ClassVar[str] = "mine"

    with pytest.raises(InvalidValueError, match=r"selector mine \(MyLayers\)"):
        MyLayers().check_answer(answer, 9, 4)
    MyLayers().check_answer(LayerAnswer(torch.arange(4)), 9, 4)


def test_a_run_with_a_bad_selector_ends_in_one_line_without_records_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})

    @selectors.register
    @dataclass(frozen=True)
    class FirstFive(ScoreSelector):
        name: ClassVar[str] = "first_five"

        def score(self, tokens, generator):
            return tokens.projected.norm(dim=1)[:5]

    command = [
        "run",
        "selector=[full,first_five]",
        "budget=16",
        "task=embedded_gqa",
        "limit=2",
        "logger=none",
    ]
    assert main([*command, f"out={tmp_path}"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "selector first_five (FirstFive) must score every visual token once: expected shape (144,), got (5,)"
        in told
    )
    # Answers of the other arms are kept.
    recorded = [json.loads(line) for path in tmp_path.rglob("records*.jsonl") for line in path.open()]
    assert {row["selector"] for row in recorded} <= {"full"}
