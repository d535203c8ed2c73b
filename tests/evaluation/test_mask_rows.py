"""Masks of a run: the tokens that each arm kept; for layer selectors, the tokens at the last layer."""

import json

import pytest

from zoo_exp import cli
from zoo_exp.config import compose
from zoo_exp.evaluation.mask_rows import QUESTIONS

RUN = [
    "selector=[full,blind,divprune,fastv,sparsevlm,dart]", "budget=28", "task=embedded_pope", "limit=5",
    "logger=none", "trainer=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert cli.main(["run", *RUN, f"out={out}"]) == 0
    (path,) = out.glob("*/*/masks.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_masks_of_layer_selectors_show_the_tokens_at_the_last_layer(rows):
    arms = {arm.label: arm for arm in compose(RUN).arms}
    left = {}
    for row in rows:
        for arm in row["arms"]:
            assert arm["indices"] == sorted(set(arm["indices"]))
            left.setdefault(arm["arm"].split(" @")[0], []).append(arm["indices"])
    assert {len(each) for each in left["full"]} == {144}
    assert {len(each) for each in left["divprune"]} == {28}
    for label, arm in arms.items():
        name = label.split(" @")[0]
        if name in ("fastv", "dart"):
            planned = arm.build().schedule(arm.budget, 144, 8)
            last = planned[max(planned)]
            # DART gives every pivot the same number of neighbours and drops the remainder of the division.
            assert all(0.7 * last <= len(each) <= last < 144 for each in left[name]), name
            assert len({tuple(each) for each in left[name]}) > 1, name
    assert all(len(each) < 144 for each in left["sparsevlm"])
    assert len(rows) >= QUESTIONS
