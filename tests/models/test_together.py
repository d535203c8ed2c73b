"""Several arms in one call of `generate` give what each of them gives alone."""

from types import SimpleNamespace

import pytest
import torch
from own_families import FAMILIES, layouts
from tiny_families import tiny_family, tiny_prompt

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.answering import EncodedBatch, Ratings, generate
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.families import adapter_for
from zoo_exp.models.generators import HfGenerator
from zoo_exp.models.tiny import tiny_inputs, tiny_model
from zoo_exp.models.together import Asked, generate_together, is_greedy
from zoo_exp.tasks import data, get

NEEDS = frozenset({"features", "projector"})
OPTIONS = {"max_new_tokens": 4, "do_sample": False}
PLENTY = 10**6


@pytest.fixture
def calls(monkeypatch):
    """Rows of every call of `generate`."""
    seen = []
    alone = HfGenerator.generate

    def counted(self, prompt, images, names, **more):
        seen.append(len(prompt.kept_tokens))
        return alone(self, prompt, images, names, **more)

    monkeypatch.setattr(HfGenerator, "generate", counted)
    return seen


def arms(batch, *budgets, positions=None):
    """Arms at each budget: three without a score, and ZOO."""
    rows = len(batch.tokens)
    return [
        Asked(
            batch,
            selectors.get(name),
            Budget.parse(budget),
            [f"{name}/{row}" for row in range(rows)],
            positions,
        )
        for budget in budgets
        for name in ("random", "divprune", "uniform_grid", "zoo")
    ]


def check_equal(loaded, asked, **options):
    """What arms give together is what each gives alone; the results."""
    options = OPTIONS | options
    with torch.inference_mode():
        together = generate_together(loaded, asked, seed=3, most_tokens=PLENTY, **options)
        for arm, made in zip(asked, together, strict=True):
            alone = generate(
                loaded,
                arm.batch,
                arm.selector,
                arm.budget,
                arm.names,
                seed=3,
                positions=arm.positions,
                **options,
            )
            assert torch.equal(made.new_tokens, alone.new_tokens)
            assert torch.equal(made.prompt.attention_mask, alone.prompt.attention_mask)
            assert made.prompt.kept_tokens == alone.prompt.kept_tokens
            for mine, theirs in zip(made.selected.selections, alone.selected.selections, strict=True):
                assert [s.indices.tolist() for s in mine] == [s.indices.tolist() for s in theirs]
    return together


@pytest.mark.parametrize(
    ("family", "positions"), [*((family, "contiguous") for family in FAMILIES), ("qwen2_5_vl", "original")]
)
def test_rows_of_several_arms_give_what_they_give_alone(family, positions, calls):
    model = tiny_model(family)
    loaded = SimpleNamespace(model=model, adapter=adapter_for(model))
    inputs = tiny_inputs(model, layouts(family)["ragged"])
    batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, NEEDS))
    asked = arms(batch, 4, 2, positions=positions)
    asked.insert(3, Asked(batch, selectors.get("blind"), None, list("abcd"), positions))
    check_equal(loaded, asked)
    assert calls[:3] == [16, 4, 16]  # eight arms of four rows in two calls, and the one without visual tokens


def test_a_family_whose_decoder_reads_more_is_answered_arm_by_arm(calls):
    model = tiny_family("qwen3_vl")
    inputs = tiny_prompt(model, (1, 1))
    loaded = SimpleNamespace(model=model, adapter=adapter_for(model))
    batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, frozenset()))
    asked = [arm for arm in arms(batch, 3) if not arm.selector.needs]
    check_equal(loaded, asked)
    assert len(asked) > 1
    assert calls[: len(asked)] == [len(batch.tokens)] * len(asked)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("embedded", "world2_gqa"),
        ("embedded_next", "world2_tiles_gqa"),
        ("embedded_qwen", "world2_sizes_gqa"),
    ],
)
def test_embedded_models_give_every_arm_its_own_responses_of_its_own_length(name, task, calls):
    loaded, task = zoo_exp.load_model(name), get(task)
    chats = [user_turn(task.content(row, "embedded")) for row in data.load(task, None, 3)]
    inputs = chat_inputs(loaded.processor, chats)
    with torch.inference_mode():
        batch = EncodedBatch(inputs, loaded.adapter.encode(inputs, NEEDS))
    asked = arms(batch, 16, 4)
    part = batch.rows([2, 0])  # an arm that has answered a part before
    asked.append(Asked(part, selectors.get("random"), Budget.parse(4), ["x/2", "x/0"]))
    together = check_equal(loaded, asked, max_new_tokens=16)
    assert len(calls) < 2 * len(asked)
    assert [made.arms_in_call for made in together[:4]] == [4] * 4
    for arm, made in zip(asked, together, strict=True):
        assert len(made.read(loaded, ())) == len(arm.names)
        assert made.selected.milliseconds > 0
        assert 0 < made.generate_ms <= made.spent_ms


@pytest.fixture(scope="module")
def small():
    """A model, and a batch of two prompts."""
    model = tiny_model("llava")
    loaded = SimpleNamespace(model=model, adapter=adapter_for(model))
    inputs = tiny_inputs(model, [[(56, 56)], [(56, 56)]])
    return loaded, EncodedBatch(inputs, loaded.adapter.encode(inputs, NEEDS))


def test_a_call_has_at_most_the_given_tokens(small, calls):
    loaded, batch = small
    asked = arms(batch, 2)
    length = generate_together(loaded, asked, most_tokens=PLENTY, **OPTIONS)[0].prompt.attention_mask.shape[1]
    for rows, expected in ((8, [8]), (7, [6, 2]), (4, [4, 4]), (1, [2, 2, 2, 2])):
        calls.clear()
        generate_together(loaded, asked, most_tokens=rows * (length + OPTIONS["max_new_tokens"]), **OPTIONS)
        assert calls == expected


def test_scores_are_shared_and_errors_name_the_row(small):
    loaded, batch = small
    ratings = Ratings()
    asked = [
        Asked(batch, selectors.get("zoo", fusion=f), Budget.parse(2), ["a", "b"]) for f in ("sum", "none")
    ]
    generate_together(loaded, asked, ratings=ratings, most_tokens=PLENTY, **OPTIONS)
    assert len(ratings.known) == 1
    weight = loaded.model.lm_head.weight
    kept = weight[0, 0].item()
    try:
        with torch.no_grad():
            weight[0, 0] = torch.nan
        with pytest.raises(InvalidValueError, match="a: the model's logits are NaN"):
            generate_together(loaded, asked, most_tokens=PLENTY, **OPTIONS)
    finally:
        with torch.no_grad():
            weight[0, 0] = kept


def test_checkpoints_that_search_beams_do_not_share_calls(small):
    loaded, _ = small
    config = loaded.model.generation_config
    assert is_greedy(loaded.model)
    before, config.num_beams = config.num_beams, 3
    try:
        assert not is_greedy(loaded.model)
    finally:
        config.num_beams = before
