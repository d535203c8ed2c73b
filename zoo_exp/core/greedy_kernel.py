"""The greedy max-min loop as a single Triton kernel, with one program per image.

Triton is not a dependency; it comes with CUDA builds of torch. If it is missing or cannot compile (it needs a C
compiler), `diversity` runs the same loop in torch, with five launches per step. Import this module only for tensors
on a GPU; a test runs the kernel in Triton's interpreter.
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
"""Reason why the kernel cannot run in this process; empty if it can."""


def greedy_launch(
    distances: Tensor, first: Tensor, alive: Tensor, weights: Tensor | None, k: int, combine: str
) -> Tensor | None:
    """Pick k rows of every image, with the same results and tie-breaking as `diversity`.

    Args:
        distances: of all pairs [B, N, N], float32 and contiguous.
        first: scores of the first pick [B, N].
        alive: 0 for candidates, -inf for padding [B, N].
        weights: importance [B, N], or None.
        k: number of rows to pick, at least 1.
        combine: `multiply` or `sum`.

    Returns:
        Picks in pick order [B, k] (int64), or None if Triton is missing or cannot compile.
    """
    if triton is None or _FAILED:
        return None
    images, n = first.shape
    picks = torch.empty(images, k, dtype=torch.int64, device=first.device)
    block = triton.next_power_of_2(n)
    # Triton launches on the current device, which may differ from that of the tensors.
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
    except Exception as error:  # e.g. no C compiler or an unsupported GPU; Triton raises various types
        _FAILED.append(f"{type(error).__name__}: {error}")
        warnings.warn(
            f"Triton cannot run the greedy kernel ({_FAILED[0]}); using the slower loop in torch",
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
    """All steps for one image; scores, nearest distances and weights stay in registers."""
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
        # Lowest index of the maximum, computed explicitly: tie-breaking of `argmax` depends on the backend. With
        # NaN (reported later by a deferred check) nothing compares equal; the clamp keeps the index in range.
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
