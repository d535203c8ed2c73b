"""Checks that every selector must pass.

>>> from zoo_exp import selectors
>>> check_selector(selectors.get("divprune"))
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zoo_exp.core.budget import ROUNDINGS, Budget, BudgetLike
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.selectors.base import Selector
from zoo_exp.testing.sample_images import part_of, rows_of, sample_tokens, tiled_tokens, with_newlines

BUDGETS = (1, 7, 47, 0.25, "33.3%")
_FIELDS_OF = {
    "projector": {"project", "mlp"},
    "cls": {"cls", "cls_key", "tiles"},
    "text": {"text", "text_words", "question_words", "family"},
    "cls_attention": {"cls_attention", "attention_heads"},
    "clip": {"clip_image", "clip_text"},
    "resize": {"pixels_encoder"},
}
"""Fields behind a need, unless the field has the name of the need."""


class ContractError(ZooExpError, AssertionError):
    """A selector violates a property that every selector must have."""


def check_selector(selector: Selector) -> None:
    """Run all `CHECKS` on a selector; the first failed one raises `ContractError` with expected and actual result."""
    for check in CHECKS.values():
        check(selector)


def check_count_and_order(selector: Selector) -> None:
    """As many tokens as the budget says, ascending, unique, in range; merged features fit them."""
    tokens = sample_tokens()
    for budget in _budgets(selector):
        answer = _select(selector, tokens, budget)
        _right_count(selector, answer, tokens, budget)
        _well_formed(selector, answer, tokens)


def check_everything_and_nothing(selector: Selector) -> None:
    """K = N is the identity, K = 0 is empty, K above N is an error, an image without tokens stays one."""
    tokens = sample_tokens()
    if _takes_budget(selector):
        for budget in (tokens.count, 1.0):
            answer = _select(selector, tokens, budget)
            same = torch.equal(answer.indices, torch.arange(tokens.count)) and answer.merged is None
            _expect(selector, same, f"budget {budget} of {tokens.count} must keep every token as it is")
        none = _select(selector, tokens, Budget(count=0))
        _expect(selector, none.kept_tokens == 0, f"a budget of 0 kept {none.kept_tokens}")
        _refuses(selector, tokens, tokens.count + 1)
        no_rows = part_of(tokens, torch.empty(0, dtype=torch.int64))
        empty = _select(selector, no_rows, 0.5)
        _expect(selector, empty.kept_tokens == 0, "an image without tokens got some")


def check_determinism(selector: Selector) -> None:
    """One generator gives one answer, global random numbers are left alone, `stochastic` tells the truth."""
    tokens, budget = sample_tokens(), _budgets(selector)[-1]
    before = torch.get_rng_state()
    first = _select(selector, tokens, budget)
    _expect(selector, torch.equal(before, torch.get_rng_state()), "it draws from the global generator")
    _same(selector, first, _select(selector, tokens, budget), "two calls with the same generator")
    answers = [_select(selector, tokens, budget, seed=seed) for seed in range(8)]
    differ = any(
        not torch.equal(a.indices, first.indices)
        or (a.scores is not None and first.scores is not None and not torch.equal(a.scores, first.scores))
        for a in answers
    )
    _expect(
        selector,
        differ == selector.stochastic,
        f"stochastic is {selector.stochastic}, but answers differ: {differ}",
    )


def check_batches(selector: Selector) -> None:
    """`select_many` answers as one by one, whatever the company, the sizes and the order."""
    images = [sample_tokens(0), sample_tokens(1, 30), sample_tokens(2), sample_tokens(3, 36)]
    for budget in [None] if not _takes_budget(selector) else [0.25, 9]:
        alone = [_select(selector, image, budget, seed=i) for i, image in enumerate(images)]
        for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2]):
            generators = [torch.Generator().manual_seed(i) for i in order]
            together = selector.select_many([images[i] for i in order], budget, generators)
            for i, answer in zip(order, together, strict=True):
                _same(selector, alone[i], answer, f"image {i} alone and in the batch {order}")


def check_permutation(selector: Selector) -> None:
    """Tokens in another order give the same tokens, if the selector declares it."""
    if not selector.equivariant:
        return
    tokens = sample_tokens()
    order = torch.randperm(tokens.count, generator=torch.Generator().manual_seed(5))
    back, replay = order.argsort(), tokens.replay
    shuffled = dataclasses.replace(
        tokens.subset(order),
        replay=lambda layer, hidden: replay(layer, hidden[..., back, :])[..., order, :] if replay else hidden,
    )
    for budget in _budgets(selector):
        plain, moved = _select(selector, tokens, budget), _select(selector, shuffled, budget)
        same = torch.equal(plain.indices, order[moved.indices].sort().values)
        _expect(selector, same, f"budget {budget}: a permutation changed the answer")


def check_degenerate_features(selector: Selector) -> None:
    """Zero rows, duplicates and constant scores give a full and finite answer."""
    tokens = sample_tokens()
    zero, twin, same = torch.ones(48), torch.arange(48), torch.zeros(48, dtype=torch.int64)
    zero[[0, 5, 40]] = 0
    twin[24:] = twin[:24].clone()
    cases = {
        "zero rows": dataclasses.replace(
            tokens,
            projected=tokens.projected * zero[:, None],
            features=rows_of(tokens.features) * zero[:, None],
        ),
        "all rows zero": dataclasses.replace(
            tokens,
            projected=tokens.projected * 0,
            features=rows_of(tokens.features) * 0,
            keys=rows_of(tokens.keys) * 0,
        ),
        "duplicated rows": part_of(tokens, twin),
        "identical rows": part_of(tokens, same),
    }
    for what, case in cases.items():
        for budget in _budgets(selector):
            answer = _select(selector, case, budget)
            _right_count(selector, answer, case, budget, f"{what}: ")
            _well_formed(selector, answer, case)


def check_half_precision(selector: Selector) -> None:
    """float16 and bfloat16 inputs work, and merged features keep their type."""
    for dtype in (torch.float16, torch.bfloat16):
        tokens = sample_tokens(dtype=dtype)
        for budget in _budgets(selector):
            _well_formed(selector, _select(selector, tokens, budget), tokens)


def check_inputs_untouched(selector: Selector) -> None:
    """Nothing that the selector looks at is changed."""
    tokens = sample_tokens()
    before = {f: copy.deepcopy(v) for f, v in vars(tokens).items() if isinstance(v, Tensor | Mapping)}
    for budget in _budgets(selector):
        _select(selector, tokens, budget)
    for field, old in before.items():
        new = getattr(tokens, field)
        kept = (
            torch.equal(old, new)
            if isinstance(old, Tensor)
            else all(torch.equal(old[k], new[k]) for k in old)
        )
        _expect(selector, kept, f"it changes {field}")


def check_needs(selector: Selector) -> None:
    """It looks at nothing that it does not name in `needs`, and says so when a need is missing."""
    tokens, budget = sample_tokens(), _budgets(selector)[-1]
    keep = {"projected", "grid"}.union(*(_FIELDS_OF.get(need, {need}) for need in selector.needs))
    bare = VisualTokens(**{f: v for f, v in vars(tokens).items() if f in keep})
    _same(
        selector,
        _select(selector, tokens, budget),
        _select(selector, bare, budget),
        "all fields and needed ones",
    )
    if _takes_budget(selector):
        for need in selector.needs:
            gone = _FIELDS_OF.get(need, {need})
            _refuses(selector, VisualTokens(**{f: v for f, v in vars(bare).items() if f not in gone}), budget)


def check_bad_features(selector: Selector) -> None:
    """NaN and infinity are refused, not ranked, also where scores are given that do not show them."""
    if selector.name == "blind":
        return
    budget, good = _budgets(selector)[-1], torch.ones(48)
    for bad in (float("nan"), float("inf")):
        tokens = sample_tokens()
        tokens.projected[3, 2] = bad
        _refuses(selector, tokens, budget)
        _refuses(selector, tokens, budget, good)
        if "features" in selector.needs:
            tokens = sample_tokens()
            rows_of(tokens.features)[3, 2] = bad
            _refuses(selector, tokens, budget)
            _refuses(selector, tokens, budget, good)


def check_scores(selector: Selector) -> None:
    """It scores every visual token once, and scores of another length are refused."""
    tokens, budget = sample_tokens(), _budgets(selector)[-1]
    scores = selector.score(tokens, torch.Generator().manual_seed(0))
    fits = scores is None or scores.shape == (tokens.count,)
    _expect(selector, fits, f"score gave shape {None if scores is None else tuple(scores.shape)}, not (48,)")
    for length in (tokens.count - 1, tokens.count + 1):
        try:
            selector.select(tokens, budget, torch.Generator().manual_seed(0), torch.ones(length))
        except InvalidValueError:
            continue
        raise ContractError(
            f"selector {selector.name} ({selector}): {length} scores for {tokens.count} visual tokens must be refused "
            "with an InvalidValueError"
        )


def check_newlines(selector: Selector) -> None:
    """A newline that is dropped changes nothing: the same patches stay as without newlines."""
    if "resize" in selector.needs or not _takes_budget(selector) or selector.newline != "drop":
        return
    whole, tokens = tiled_tokens()
    places = (tokens.tile != -1).nonzero().flatten()  # type: ignore[union-attr]
    without = dataclasses.replace(tokens.subset(places), replay=whole.replay)
    if whole.layer_attention is not None:
        middle = whole.layer_attention
        without = dataclasses.replace(without, layer_attention=middle)
        tokens = dataclasses.replace(tokens, layer_attention=lambda layer: with_newlines(middle(layer)))
    for budget in (Budget(count=3, per="tile"), 9, Budget(count=20)):
        kept = _select(selector, tokens, budget).indices
        plain = places[_select(selector, without, budget).indices]
        _expect(selector, torch.equal(kept, plain), f"budget {budget}: dropped newlines changed the answer")


def check_tiles(selector: Selector) -> None:
    """On tiled images every tile gets its share, and newlines do what the option says."""
    if "resize" in selector.needs or not _takes_budget(selector) or selector.newline != "drop":
        return
    tile = torch.tensor([0] * 12 + ([1] * 8 + [2] * 9 + [-1]) * 2)
    tokens = dataclasses.replace(sample_tokens(), tile=tile, grid=None)
    answer = _select(selector, tokens, Budget(count=3, per="tile"))
    counts = [int((tile[answer.indices] == t).sum()) for t in (-1, 0, 1, 2)]
    _expect(selector, counts == [0, 3, 3, 3], f"3 tokens per tile gave {counts} (newlines, tiles 0, 1, 2)")
    per_image = tile[_select(selector, tokens, 12).indices]
    _expect(selector, len(per_image) == 12, f"12 tokens per image gave {len(per_image)}")
    _expect(selector, not (per_image == -1).any(), "newline=drop kept a newline")


CHECKS: dict[str, Callable[[Selector], None]] = {
    f.__name__.removeprefix("check_"): f
    for f in (
        check_count_and_order,
        check_everything_and_nothing,
        check_determinism,
        check_batches,
        check_permutation,
        check_degenerate_features,
        check_half_precision,
        check_inputs_untouched,
        check_needs,
        check_bad_features,
        check_scores,
        check_tiles,
        check_newlines,
    )
}


def _select(selector: Selector, tokens: VisualTokens, budget: BudgetLike, seed: int = 0) -> Selection:
    try:
        return selector.select(tokens, budget, torch.Generator().manual_seed(seed))
    except InvalidValueError as error:
        raise ContractError(f"selector {selector.name} ({selector}): budget {budget}: {error}") from error


def _takes_budget(selector: Selector) -> bool:
    """Whether the selector takes a budget, unlike `full` and `blind`."""
    return _answer_or_error(selector, sample_tokens(), None) is None


def _answer_or_error(
    selector: Selector, tokens: VisualTokens, budget: BudgetLike, scores: Tensor | None = None
) -> Selection | None:
    try:
        return selector.select(tokens, budget, torch.Generator().manual_seed(0), scores)
    except InvalidValueError:
        return None


def _budgets(selector: Selector) -> list[BudgetLike]:
    return list(BUDGETS) if _takes_budget(selector) else [None]


def _expect(selector: Selector, condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(f"selector {selector.name} ({selector}): {message}")


def _right_count(
    selector: Selector, answer: Selection, tokens: VisualTokens, budget: BudgetLike, what: str = ""
) -> None:
    if budget is None:
        allowed = {tokens.count, 0}
    else:  # a selector may round a ratio differently, but not a count
        budgets = [dataclasses.replace(Budget.parse(budget), rounding=rounding) for rounding in ROUNDINGS]
        allowed = {one.resolve(tokens.count) for one in budgets}
        if not selector.exact:
            allowed = set(range(1, max(allowed) + 1))
    kept = answer.kept_tokens
    _expect(
        selector, kept in allowed, f"{what}budget {budget}: expected {sorted(allowed)} tokens, got {kept}"
    )


def _refuses(
    selector: Selector, tokens: VisualTokens, budget: BudgetLike, scores: Tensor | None = None
) -> None:
    refused = _answer_or_error(selector, tokens, budget, scores) is None
    filled = sorted(f for f, v in vars(tokens).items() if v is not None)
    _expect(selector, refused, f"budget {budget} with {filled} must be refused with an InvalidValueError")


def _same(selector: Selector, a: Selection, b: Selection, what: str) -> None:
    for field in ("indices", "scores", "merged"):
        left, right = getattr(a, field), getattr(b, field)
        equal = left is right or (left is not None and right is not None and torch.equal(left, right))
        _expect(selector, equal, f"{what} differ in {field}")


def _well_formed(selector: Selector, answer: Selection, tokens: VisualTokens) -> None:
    indices, merged = answer.indices, answer.merged
    ascending = bool((indices[1:] > indices[:-1]).all())
    _expect(selector, ascending, f"indices must be ascending and unique, got {indices.tolist()}")
    inside = not len(indices) or (indices[0] >= 0 and indices[-1] < tokens.count)
    _expect(selector, bool(inside), f"indices outside 0..{tokens.count - 1}: {indices.tolist()}")
    if answer.scores is not None:
        fits = answer.scores.shape == (tokens.count,) and bool(answer.scores.isfinite().all())
        _expect(selector, fits, "scores must be finite and as many as visual tokens")
    if merged is not None:
        fits = merged.shape[1] == tokens.projected.shape[1] and merged.dtype == tokens.projected.dtype
        finite = bool(merged.isfinite().all())
        _expect(
            selector,
            fits and finite,
            "merged features must be finite, of the width and type of the projected ones",
        )
