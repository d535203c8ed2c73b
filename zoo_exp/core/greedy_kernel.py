"""The greedy max-min loop as one launch on a GPU: a Triton kernel with one program per image.

Triton is no dependency: torch's CUDA builds bring it. Where it is missing, or cannot compile (it needs a C
compiler), `diversity` runs the same loop in torch, five launches a step. Import this module only for tensors on
a GPU; a test runs the kernel in Triton's interpreter.
"""

import warnings
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

triton: Any = None
tl: Any = None
with suppress(ImportError):
    triton, tl = import_module("triton"), import_module("triton.language")
constexpr: Any = None if tl is None else tl.constexpr

_FAILED: list[str] = []
"""Why the kernel cannot run in this process; empty while it can."""


def greedy_launch(
    distances: Tensor, first: Tensor, alive: Tensor, weights: Tensor | None, k: int, combine: str
) -> Tensor | None:
    """Pick k rows of every image, as `diversity` does step by step: same numbers, same ties.

    Args:
        distances: of all pairs [B, N, N], float32 and contiguous.
        first: scores that decide the first pick [B, N].
        alive: 0 for candidates, -inf for padding [B, N].
        weights: importance [B, N], or None for distance alone.
        k: how many, at least 1.
        combine: `multiply` or `sum`.

    Returns:
        Picks in pick order [B, k] (int64), or None where Triton is missing or cannot compile.
    """
    if triton is None or _FAILED:
        return None
    images, n = first.shape
    picks = torch.empty(images, k, dtype=torch.int64, device=first.device)
    block = triton.next_power_of_2(n)
    # A launch goes to the current device, which need not be the tensors' own.
    here = torch.cuda.device(first.device) if first.is_cuda else nullcontext()
    try:
        with here:
            _kernel[(images,)](
                distances,
                first.contiguous(),
                alive.contiguous(),
                first if weights is None else weights.contiguous(),
                picks,
                n,
                k,
                WEIGHTED=weights is not None,
                MULTIPLY=combine == "multiply",
                BLOCK=block,
                num_warps=4 if block <= 1024 else 8,
                enable_fp_fusion=False,
            )
    except Exception as error:  # no compiler, an unknown GPU: what Triton raises then is its own business
        _FAILED.append(f"{type(error).__name__}: {error}")
        warnings.warn(
            f"Triton cannot run the greedy kernel ({_FAILED[0]}); the slower loop in torch takes over",
            stacklevel=2,
        )
        return None
    return picks


def _greedy(
    distances: "Any",
    first: "Any",
    alive: "Any",
    weights: "Any",
    picks: "Any",
    n: "Any",
    k: "Any",
    WEIGHTED: constexpr,
    MULTIPLY: constexpr,
    BLOCK: constexpr,
) -> None:
    """All steps of one image; its N scores, nearest distances and weights stay in registers."""
    image = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    inside = lane < n
    start = image * n
    free = tl.load(alive + start + lane, mask=inside, other=float("-inf"))
    score = tl.load(first + start + lane, mask=inside, other=0.0) + free
    nearest = tl.full((BLOCK,), float("inf"), tl.float32)
    weight = nearest
    if WEIGHTED:
        weight = tl.load(weights + start + lane, mask=inside, other=0.0)
    for step in range(k):
        # The lowest index of the best, spelled out: what `argmax` does with ties is up to the backend. After a
        # NaN, which a deferred check reports later, nothing is equal: the clamp keeps inside the matrix.
        best = tl.max(score, axis=0)
        pick = tl.minimum(tl.min(tl.where(score == best, lane, BLOCK), axis=0), n - 1)
        tl.store(picks + image * k + step, pick.to(tl.int64))
        free = tl.where(lane == pick, float("-inf"), free)
        row = tl.load(distances + (start + pick) * n + lane, mask=inside, other=0.0)
        nearest = tl.minimum(nearest, row)
        gain = nearest
        if WEIGHTED:
            gain = nearest * weight if MULTIPLY else nearest + weight
        score = gain + free


_kernel: Any = None if triton is None else triton.jit(do_not_specialize=["n", "k"])(_greedy)
