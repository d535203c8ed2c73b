"""Every registered selector, with its variants, passes the contract suite."""

import pytest

from zoo_exp import selectors
from zoo_exp.selectors.base import Selector
from zoo_exp.testing import CHECKS

VARIANTS = {
    "cdpruner": [{"relevance": "clip"}],
    "cls_attention": [{"attention": "received"}],
    "divprune": [{"newline": "keep"}, {"newline": "as_released"}],
    "feature_norm": [{"of": "features"}],
    "hiprune": [{"alpha": 1}, {"object_layer": 2}],
    "mmtok": [{"image_weight": 2.0}, {"words": "all"}],
    "scope": [{"combine": "add"}, {"alpha": 0}],
    "vispruner": [{"attention": "received"}, {"important_share": 0}, {"important_share": 1}],
    "visionzip": [{"variant": "official_code"}, {"attention": "received"}, {"contextual_share": 0.5}],
    "zoo": [
        {"estimator": "closed_form"},
        {"estimator": "diagonal"},
        {"estimator": "first_order", "n_directions": 3},
        {"estimator": "feature_norm"},
        {"fusion": "none"},
        {"fusion": "diversity"},
        {"fusion": "sum"},
        {"projector": "low_rank", "rank": 4},
        {"projector": "low_rank_as_released", "rank": 4},
        {"projector": "low_rank", "rank": 4, "estimator": "closed_form"},
        {"layer": 1, "n_directions": 8},
        {"dtype": "bfloat16"},
        {"variant": "official_code"},
        {"control": "shuffled", "n_directions": 8},
        {"control": "shuffled", "estimator": "closed_form", "fusion": "none"},
        {"control": "inverted", "n_directions": 8},
        {"projector": "low_rank_as_released", "rank": 4, "factor_seed": 3},
    ],
}
INPUT = [name for name in selectors.available() if isinstance(selectors.get(name), Selector)]
CASES = [(name, options) for name in INPUT for options in [{}, *VARIANTS.get(name, [])]]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[" ".join([n, *(f"{k}={v}" for k, v in o.items())]) for n, o in CASES]
)
def test_contract(name, options, check):
    CHECKS[check](selectors.get(name, **options))


def test_every_variant_belongs_to_a_selector():
    assert set(VARIANTS) <= set(INPUT)
