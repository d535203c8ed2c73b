"""Non-finite features are reported immediately, or at the end of a deferred block on a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoo_exp import selectors
from zoo_exp.core import checks
from zoo_exp.core.checks import check_features, deferred_checks
from zoo_exp.core.sensitivity import MLP
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError

WAITING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero", "equal.default")
"""Operations whose answer the host has to wait for."""


@pytest.fixture
def queued(monkeypatch):
    """Play a GPU: whether values are finite is asked behind the work."""
    monkeypatch.setattr(checks, "_queued", lambda x: True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_named(dtype, value):
    x = torch.zeros(5, 4, dtype=dtype)
    check_features(x)
    x[3, 1] = value
    with pytest.raises(InvalidValueError, match="keys contain NaN or infinity in 1 of 5 rows, first row 3"):
        check_features(x, name="keys")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_finite_values_are_fine(dtype):
    top = torch.finfo(dtype).max
    check_features(torch.full((50, 40), top, dtype=dtype))
    check_features(torch.tensor([[top, -top]], dtype=dtype))
    check_features(torch.zeros(0, 4, dtype=dtype))


def test_on_a_cpu_a_block_changes_nothing():
    with deferred_checks(), pytest.raises(InvalidValueError, match="NaN"):
        check_features(torch.full((2, 2), torch.nan))


def test_a_block_names_the_first_at_its_end(queued):
    reached = []

    def block():
        with deferred_checks():
            check_features(torch.zeros(2, 2))
            with deferred_checks():
                check_features(torch.full((2, 2), torch.inf), name="weights")
                reached.append("inner")
            check_features(torch.full((2, 2), torch.nan))
            reached.append("outer")

    with pytest.raises(InvalidValueError, match="weights contain NaN or infinity in 2 of 2 rows"):
        block()
    assert reached == ["inner", "outer"]
    with deferred_checks():  # nothing is left over
        check_features(torch.zeros(2, 2))
    with pytest.raises(InvalidValueError, match="features contain"):  # outside, it is at once
        check_features(torch.full((2, 2), torch.nan))


def test_shapes_are_never_deferred(queued):
    with deferred_checks(), pytest.raises(InvalidValueError, match=r"must be \[N, 3\]"):
        check_features(torch.zeros(2, 2), 3)


def test_bad_features_are_the_error_where_they_made_the_block_fail(queued):
    def block(value):
        with deferred_checks():
            check_features(torch.full((2, 2), value))
            raise IndexError("out of range")

    with pytest.raises(InvalidValueError, match="features contain NaN") as caught:
        block(torch.nan)
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(IndexError):
        block(0.0)


class Waits(TorchDispatchMode):
    """Notes what a GPU would make the host wait for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in WAITING):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("zoo", {"estimator": "closed_form"}),
        ("zoo", {}),
        ("zoo", {"fusion": "sum"}),
        ("zoo", {"fusion": "none"}),
        ("zoo", {"projector": "low_rank", "rank": 4}),
        ("divprune", {}),
        ("random", {}),
        ("uniform_grid", {}),
        ("feature_norm", {}),
    ],
)
def test_selecting_waits_for_nothing_but_the_check(queued, name, options):
    g = torch.Generator().manual_seed(0)
    mlp = MLP(
        torch.randn(8, 6, generator=g), torch.zeros(8), torch.randn(10, 8, generator=g), torch.zeros(10)
    )
    x = [torch.randn(n, 6, generator=g) for n in (30, 20)]
    images = [
        VisualTokens(projected=mlp(f), features=f, project=mlp, mlp=mlp, grid=(5, len(f) // 5)) for f in x
    ]
    selector = selectors.get(name, **options)
    generators = [torch.Generator().manual_seed(n) for n in range(2)]
    selector.select_many(images, 7, generators)  # once-per-model work
    with deferred_checks():
        with Waits() as waits:
            chosen = selector.select_many(images, 7, generators)
        assert waits.seen == []
    assert [c.kept_tokens for c in chosen] == [7, 7]
    with Waits() as waits:  # the mode sees what it should
        selector.select_many(images, 7, generators)
    assert set(waits.seen) == {"aten._local_scalar_dense.default"}
