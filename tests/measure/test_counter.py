"""The counter sees attention on a CPU, with and without grouped keys."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo_exp.measure.counter import count_flops, counting


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_costs_the_same_whatever_kernel_runs(groups, backend):
    query = torch.randn(2, 4, 9, 8)
    key = value = torch.randn(2, 4 // groups, 11, 8)

    def attend():
        with sdpa_kernel(backend):
            F.scaled_dot_product_attention(query, key, value, enable_gqa=groups > 1)

    assert count_flops(attend) == 2 * 2 * (2 * 4 * 9 * 11 * 8)


def test_counts_so_far_can_be_read_inside_a_block():
    with counting() as counter:
        torch.ones(2, 3) @ torch.ones(3, 4)
        first = counter.get_total_flops()
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert (first, counter.get_total_flops()) == (48, 96)


def test_products_that_are_added_in_place_count():
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    assert count_flops(lambda: torch.zeros(2, 5).addmm_(a, b)) == 60
    assert count_flops(lambda: torch.zeros(4, 2, 5).baddbmm_(a.expand(4, 2, 3), b.expand(4, 3, 5))) == 240
