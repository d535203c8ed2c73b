"""Cost of selection: the released algorithms as published, ours, the speed-up, the error and the memory.

    python benchmarks/selection.py            # Dv 1024, D 4096, M 64; N 576 and 2880; K 64, 192, 640
    python benchmarks/selection.py --quick    # small sizes, seconds

On a CUDA device inputs are bfloat16 and times are CUDA events; on a CPU they are float32, one thread, and its
CPU time, which is independent of other load. Weights are random, either unchanged ("flat") or with a decaying spectrum
like that of trained weights ("falling").

Errors are relative to finite differences along 4096 other directions in float64, whose own standard error is in the
next column. "Up to a factor" is the error after removing one factor common to all tokens, which does not affect
rankings: most of the closed form's error is such a factor, the difference between a mean of lengths and the root of
their mean square.

On a CPU, the released sensitivity runs along 8 of the 64 directions and its time is extrapolated, marked with ~.
Memory is the peak above the previous level (resident set size on a CPU).
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_exp.core.closed_form import closed_form
from zoo_exp.core.diagonal import diagonal, first_layer
from zoo_exp.core.diversity import greedy
from zoo_exp.core.fusion import min_max
from zoo_exp.core.low_rank import low_rank
from zoo_exp.core.sensitivity import MLP, draw_directions, zeroth_order

STEP = 0.01
DIRECTIONS = 64


def main() -> None:
    """Run and print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="Dv 128, D 256, N 144: for a look, not for numbers"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {name}\n")
    width, out, sizes, budgets = (
        (128, 256, [144], [16, 48]) if args.quick else (1024, 4096, [576, 2880], [64, 192, 640])
    )
    flat, falling = (make_mlp(width, out, device, spectrum) for spectrum in ("flat", "falling"))
    rows = sensitivity_rows(make_features(sizes[0], width, device), flat, "flat")
    for n in sizes:
        x = make_features(n, width, device)
        rows += sensitivity_rows(x, falling, "falling")
        rows += greedy_rows(falling(x.float()).to(x.dtype), x, [k for k in budgets if k <= n // 3])
    show(rows)
    if args.json:
        args.json.write_text(
            json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        )


def make_mlp(width: int, out: int, device: torch.device, spectrum: str) -> MLP:
    """A random projector, scaled to keep activations of order one."""
    g = torch.Generator().manual_seed(0)
    w1 = torch.randn(out, width, generator=g) / math.sqrt(width)
    if spectrum == "falling":
        u, s, v = torch.linalg.svd(w1, full_matrices=False)
        w1 = (u * (s * torch.linspace(3, 0.1, len(s)) ** 2)) @ v
    w2 = torch.randn(out, out, generator=g) / math.sqrt(out)
    b1, b2 = torch.randn(out, generator=g) / 10, torch.randn(out, generator=g) / 10
    return MLP(*(w.to(device) for w in (w1, b1, w2, b2)))


def make_features(n: int, width: int, device: torch.device) -> Tensor:
    """Tokens of very different length around a common mean, as vision encoder give."""
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, width, generator=g) * torch.rand(n, 1, generator=g) * 2 + torch.randn(
        1, width, generator=g
    )
    return x.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)


def sensitivity_rows(x: Tensor, mlp: MLP, spectrum: str) -> list[dict[str, Any]]:
    """One row per estimator."""
    n, width = x.shape
    u = draw_directions(DIRECTIONS, width, torch.Generator().manual_seed(1), x.device)
    # On a CPU the reference takes minutes per hundred tokens: it stands on a sample of them.
    some = torch.arange(0, n, max(1, n // (n if x.is_cuda else 64)), device=x.device)
    exact = many_directions(x[some], mlp)
    full = 8 if not x.is_cuda else DIRECTIONS
    released, took, memory = measure(lambda: released_sensitivity(x, mlp, u[:full]), repeat=1)
    took *= DIRECTIONS / full
    if full < DIRECTIONS:
        released = zeroth_order(x, mlp, u, STEP)  # the same numbers (1e-5), for the error column
    name = f"N={n} {spectrum}"
    rows = [row(name, "released: Algorithm 1", took, took, memory, released[some], exact, full < DIRECTIONS)]
    closed_form(x[:1], mlp)  # the kernel is computed once per model
    hidden = first_layer(x.float(), mlp)
    thin = low_rank(mlp, min(128, width))
    ours: dict[str, Callable[[], Tensor]] = {
        "shared directions": lambda: zeroth_order(x, mlp, u, STEP),
        "shared directions, low rank 128": lambda: zeroth_order(x, thin, u, STEP),
        "closed form": lambda: closed_form(x, mlp),
        "diagonal": lambda: diagonal(x, mlp),
        "diagonal, hidden layer captured": lambda: diagonal(x, mlp, hidden),
    }
    thin_exact = many_directions(x[some], thin.reduced)
    for what, run in ours.items():
        run() if x.is_cuda else None
        s, seconds, memory = measure(run, repeat=1 if "shared" in what and not x.is_cuda else 5)
        target = thin_exact if "low rank" in what else exact
        rows.append(row(name, what, seconds, took, memory, s[some], target, full < DIRECTIONS))
    return rows


def greedy_rows(z: Tensor, x: Tensor, budgets: list[int]) -> list[dict[str, Any]]:
    """One row per budget and algorithm; picks are compared, not scores."""
    n, rows = len(z), []
    weights = min_max(x.float().norm(dim=-1))
    for k in budgets:
        ours, took, memory = measure(lambda k=k: greedy(z, k, weights), repeat=3)
        name = f"N={n} K={k}"
        if n <= 1000:
            picks, slow, much = measure(lambda k=k: released_broadcast(z.float(), weights, k), repeat=1)
            rows.append(plain_row(name, "released: broadcast [N, N, D] (1.5)", slow, slow, much, ours, picks))
        else:
            slow = math.nan
            rows.append(
                {
                    "case": name,
                    "what": f"released: broadcast would take {n * n * z.shape[1] * 4 / 2**30:.0f} GiB",
                }
            )
        picks, matrix, much = measure(lambda k=k: released_matrix(z.float(), weights, k), repeat=3)
        rows.append(plain_row(name, "released: matrix (NeXT file)", matrix, slow, much, ours, picks))
        rows.append(plain_row(name, "greedy, incremental", took, slow, memory, ours, ours))
    return rows


def many_directions(x: Tensor, mlp: MLP, n_directions: int = 4096) -> tuple[Tensor, float]:
    """The float64 reference along directions that no estimate uses, and its relative standard error."""
    u = draw_directions(n_directions, x.shape[1], torch.Generator().manual_seed(99), x.device)
    parts = torch.stack([zeroth_order(x, mlp, part, STEP, dtype=torch.float64) for part in u.split(64)])
    mean = parts.mean(dim=0)
    return mean, (parts.std(dim=0) / math.sqrt(len(parts)) / mean).mean().item()


def released_sensitivity(x: Tensor, mlp: MLP, directions: Tensor) -> Tensor:
    """The published procedure: perturbed copies of all tokens through the projector, 8 directions at a time."""
    x, parts = x.float(), []
    for u in directions.split(8):
        plus, minus = mlp(x + STEP * u[:, None]), mlp(x - STEP * u[:, None])
        parts.append((plus - minus).norm(dim=-1) / (2 * STEP))
    return torch.cat(parts).mean(dim=0)


def released_broadcast(z: Tensor, weights: Tensor, k: int) -> Tensor:
    """Published selection of LLaVA-1.5: all pairs as [N, N, D], then the minimum over all picks each time."""
    return _published_loop(1 - F.cosine_similarity(z[:, None], z[None], dim=-1), weights, k)


def released_matrix(z: Tensor, weights: Tensor, k: int) -> Tensor:
    """Published selection of LLaVA-NeXT for one tile: distances by one product, the same loop."""
    unit = F.normalize(z, dim=-1)
    return _published_loop(1 - unit @ unit.T, weights, k)


def _published_loop(distance: Tensor, weights: Tensor, k: int) -> Tensor:
    picks = torch.empty(k, dtype=torch.int64, device=weights.device)
    for step in range(k):
        score = weights.clone() if step == 0 else distance[picks[:step]].amin(dim=0) * weights
        score[picks[:step]] = float("-inf")
        picks[step] = score.argmax()
    return picks


def measure(run: Callable[[], Tensor], repeat: int) -> tuple[Tensor, float, float]:
    """The answer, the median seconds, and the peak of extra memory in MiB."""
    times, memory = [], 0.0
    for _ in range(repeat):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            answer = run()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) / 1000)
            memory = (torch.cuda.max_memory_allocated() - held) / 2**20
        else:
            held_mib = _reset_peak_mib()
            began = time.process_time()
            answer = run()
            times.append(time.process_time() - began)
            memory = max(memory, _status_mib("VmHWM") - held_mib)
    return answer, sorted(times)[len(times) // 2], memory


def _reset_peak_mib() -> float:
    """Forget the process's peak of resident memory (Linux), and give what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def row(
    case: str,
    what: str,
    seconds: float,
    base: float,
    memory: float,
    s: Tensor,
    reference: tuple[Tensor, float],
    scaled: bool,
) -> dict[str, Any]:
    """A line of the sensitivity table."""
    exact, standard_error = reference
    ratio = s.double() / exact
    ranks = torch.stack([v.double().argsort().argsort().double() for v in (s, exact)])
    return {
        "case": case,
        "what": what,
        "ms": seconds * 1000,
        "ratio": base / seconds,
        "scaled": scaled,
        "mean relative error %": 100 * (ratio - 1).abs().mean().item(),
        "of the reference %": 100 * standard_error,
        "up to a factor %": 100 * (ratio / ratio.mean() - 1).abs().mean().item(),
        "rank correlation": torch.corrcoef(ranks)[0, 1].item(),
        "extra peak MiB": memory,
    }


def plain_row(
    case: str, what: str, seconds: float, base: float, memory: float, ours: Tensor, picks: Tensor
) -> dict[str, Any]:
    """A line of the greedy table."""
    same = (ours == picks).float().mean().item()
    return {
        "case": case,
        "what": what,
        "ms": seconds * 1000,
        "ratio": base / seconds,
        "same picks %": 100 * same,
        "extra peak MiB": memory,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as one table."""
    columns = ["ms", "ratio", "mean relative error %", "of the reference %", "up to a factor %"]
    columns += ["rank correlation", "same picks %", "extra peak MiB"]
    print(f"{'case':14s} {'what':36s}" + "".join(f"{c:>{len(c) + 2}s}" for c in columns))
    for line in rows:
        cells = []
        for column in columns:
            value = line.get(column, math.nan)
            estimated = column == "ratio" or (column == "ms" and "Algorithm 1" in line["what"])
            mark = "~" if line.get("scaled") and estimated else ""
            cells.append("" if math.isnan(value) else f"{mark}{value:.4g}")
        print(
            f"{line['case']:14s} {line['what']:36s}"
            + "".join(f"{cell:>{len(c) + 2}s}" for c, cell in zip(columns, cells, strict=True))
        )


if __name__ == "__main__":
    main()
