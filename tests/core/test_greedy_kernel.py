"""The greedy kernel equals the loop in torch: in Triton's interpreter, and on a GPU if available."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zoo_exp.core import diversity, greedy_kernel
from zoo_exp.core.checks import deferred_checks

HAS_TRITON = importlib.util.find_spec("triton") is not None
CAN_INTERPRET = HAS_TRITON and tuple(map(int, version("triton").split(".")[:2])) >= (3, 5)
CASES = 60


def problem(seed, device="cpu"):
    """Distances, first scores, mask, weights and k of a padded batch; every other one is full of exact ties."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, (40, 8, 130)[seed % 3], (1 + seed % 4,), generator=g).tolist()
    images = [torch.randn(n, 5, generator=g) for n in sizes]
    weights = [torch.rand(n, generator=g) for n in sizes]
    if seed % 2:
        images = [image.round() for image in images]
        weights = [(3 * w).round() / 3 for w in weights]
    if seed % 4 == 3:
        weights = [w - 0.5 for w in weights]  # below the zeros of the padding
    k = int(torch.randint(1, max(sizes) + 1, (), generator=g))
    images, weights = [x.to(device) for x in images], [w.to(device) for w in weights]
    return diversity.prepare(images, weights if seed % 5 else None, k), k


def differing(device):
    """Cases in which kernel and loop disagree, as (seed, combine)."""
    wrong = []
    for seed in range(CASES):
        batch, k = problem(seed, device)
        for combine in diversity.COMBINATIONS:
            ours = greedy_kernel.greedy_launch(
                batch.distances, batch.first, batch.alive, batch.weights, k, combine
            )
            assert ours is not None, greedy_kernel._FAILED
            if not torch.equal(ours, diversity.steps(batch, k, combine)):
                wrong.append((seed, combine))
    return wrong


def main():
    """What the test below runs in a process of its own: Triton asks for its interpreter at import."""
    batch, _ = problem(2)
    spoilt = torch.full_like(batch.first, float("nan"))
    picks = greedy_kernel.greedy_launch(batch.distances, spoilt, batch.alive, None, 3, "sum")
    answer = {"nan": [int(picks.min()), int(picks.max())], "columns": batch.first.shape[1]}
    print(json.dumps({"differing": differing("cpu"), **answer}))


@pytest.mark.skipif(
    not CAN_INTERPRET,
    reason="needs Triton 3.5, which torch's CUDA builds bring; older interpreters fail on NumPy 2.4",
)
def test_the_kernel_picks_what_the_loop_picks():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).name]
    run = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["differing"] == []
    # NaN (a deferred check names it later) never leads outside of the matrix.
    assert 0 <= answer["nan"][0] <= answer["nan"][1] < answer["columns"]


@pytest.mark.skipif(not CAN_INTERPRET, reason="needs Triton 3.5, which torch's CUDA builds bring")
@pytest.mark.parametrize(("weighted", "multiply"), [(False, True), (True, True), (True, False)])
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(weighted, multiply, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = dict.fromkeys(("distances", "first", "alive", "weights"), "*fp32") | {"picks": "*i64"}
    constants = {"WEIGHTED": weighted, "MULTIPLY": multiply, "BLOCK": 1024}
    signature = pointers | {"n": "i32", "k": "i32"} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=greedy_kernel._kernel, signature=signature, constexprs=constants)
    built = build(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
    assert "fma.rn.f32" not in built.asm["ptx"]
    assert len(built.asm["cubin"]) > 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_compiled_kernel_picks_what_the_loop_picks():
    assert differing("cuda") == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_selection_waits_for_nothing_inside_a_deferred_check():
    images = [torch.randn(n, 64, device="cuda") for n in (576, 300)]
    weights = [torch.rand(n, device="cuda") for n in (576, 300)]
    diversity.greedy_many(images, [64, 5], weights)  # compiling waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        with deferred_checks():
            diversity.greedy_many(images, [64, 5], weights)
            torch.cuda.set_sync_debug_mode("default")  # the end of the block waits once
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Refusing:
    """A kernel that cannot be compiled."""

    def __getitem__(self, grid):
        raise RuntimeError("Failed to find C compiler")


def test_without_a_compiler_the_loop_runs_after_one_warning(monkeypatch):
    monkeypatch.setattr(greedy_kernel, "triton", SimpleNamespace(next_power_of_2=lambda n: n))
    monkeypatch.setattr(greedy_kernel, "_kernel", Refusing())
    monkeypatch.setattr(greedy_kernel, "_FAILED", [])
    batch, k = problem(3)
    given = (batch.distances, batch.first, batch.alive, batch.weights, k, "multiply")
    with pytest.warns(
        UserWarning, match="RuntimeError: Failed to find C compiler.*using the slower loop in torch"
    ):
        assert greedy_kernel.greedy_launch(*given) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert greedy_kernel.greedy_launch(*given) is None


def test_without_triton_the_loop_runs(monkeypatch):
    monkeypatch.setattr(greedy_kernel, "triton", None)
    batch, k = problem(3)
    assert (
        greedy_kernel.greedy_launch(batch.distances, batch.first, batch.alive, batch.weights, k, "sum")
        is None
    )


def test_greedy_takes_the_launch_where_there_is_one(monkeypatch):
    """What the kernel answers is what `greedy` answers; images above the memory bound never reach it."""
    embeddings, seen = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), []

    def launch(distances, first, alive, weights, k, combine):
        seen.append((tuple(distances.shape), k, combine))
        return torch.full((1, k), 7)

    expected = diversity.greedy(embeddings, 5).tolist()
    monkeypatch.setattr(diversity, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(greedy_kernel, "greedy_launch", launch)
    assert diversity.greedy(embeddings, 5).tolist() == [7] * 5
    assert seen == [((1, 12, 12), 5, "multiply")]
    monkeypatch.setattr(diversity, "MATRIX_BYTES", 100)
    assert diversity.greedy(embeddings, 5).tolist() == expected
    assert len(seen) == 1


if __name__ == "__main__":
    main()
