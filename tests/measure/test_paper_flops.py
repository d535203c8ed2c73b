"""The paper's formulas give the paper's numbers, and their difference to a count."""

import pytest

from zoo_exp import selectors
from zoo_exp.measure.cost_model import CostModel, PaperCosts
from zoo_exp.models.families import architecture


@pytest.fixture(scope="module")
def config():
    return architecture("llava-hf/llava-v1.6-vicuna-7b-hf")


@pytest.mark.parametrize(("length", "tflop"), [(640, 3.329), (252, 1.285), (2940, 17.06), (220, 1.120)])
def test_prefill(config, length, tflop):
    assert PaperCosts(config).prefill(length) / 1e12 == pytest.approx(tflop, rel=5e-4)


def test_the_overhead_is_n_d_squared_at_the_papers_setting(config):
    assert selectors.get("zoo", n_directions=64, rank=128).paper_flops(2880, 1024, 4096) == 2880 * 4096**2


def test_the_overhead_is_about_0_3_percent_of_the_prefill_as_in_the_paper(config):
    costs = PaperCosts(config)
    overhead = selectors.get("zoo").paper_flops(2110, costs.vision_width, costs.width)
    assert overhead / costs.prefill(2110) == pytest.approx(0.003, abs=3e-4)
    assert costs.prefill(2110) / 1e12 == pytest.approx(
        11.8, abs=0.1
    )  # so 11.8 TFLOP stand for about 2110 tokens


def test_the_low_rank_product_costs_thirteen_times_the_papers_count(config):
    n, m, k, d, dv = 2250, 64, 128, 4096, 1024
    released = 2 * m * n * (k * (dv + d) + k * (d + d))  # multiply-adds of two thin products per layer
    assert released / selectors.get("zoo").paper_flops(n, dv, d) == pytest.approx(13, abs=0.1)


def test_a_count_is_two_and_a_half_times_the_formula(config):
    for length in (220, 640, 2940):
        assert 2.45 < CostModel(config).prefill(length) / PaperCosts(config).prefill(length) < 2.6


def test_the_paper_counts_finite_differences_only(config):
    costs = PaperCosts(config)
    base = costs.prefill(200)
    assert costs.answer(2880, 200, selectors.get("zoo")) == base + 2880 * 4096**2
    assert costs.answer(2880, 200, selectors.get("zoo", n_directions=128)) > base + 2 * 2880 * 4096**2
    for free in (selectors.get("divprune"), selectors.get("zoo", fusion="diversity"), None):
        assert costs.answer(2880, 200, free) == base
    assert costs.answer(2880, 200, selectors.get("zoo", estimator="closed_form")) == base
