"""Scale: the cost of the paper's whole study, and records and merge with millions of rows.

    python benchmarks/scale.py plan                    # 4 models x 9 tasks x 16 arms from costs measured on this device
    python benchmarks/scale.py plan --rates 250 180 25 # TFLOP/s of encoder and prefill, ms per token
    python benchmarks/scale.py merge --rows 1000000    # write journals, merge, print time, memory and bytes
    python benchmarks/scale.py read --rows 100000      # memory of the records of a report, and of two arms

The plan measures one vision pass, one prefill and one decoding step on the real shapes of LLaVA-1.5-7B (random
weights; the decoder's first layer represents all 32) and scales them by each model's FLOPs. Selectors are excluded:
they cost 1 to 60 ms per question (see benchmarks/selection.py). Wall times assume that each worker runs one cell at a
time, the longest first, as in a SLURM array; the largest cell is a lower bound unless several workers share it.
"""

import argparse
import gc
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BASIS = "llava-hf/llava-1.5-7b-hf"
MODELS = {  # hub id -> visual tokens of a typical image
    BASIS: 576,
    "llava-hf/llava-1.5-13b-hf": 576,
    "llava-hf/llava-v1.6-vicuna-7b-hf": 2880,
    "Qwen/Qwen2.5-VL-7B-Instruct": 1280,
}
KEEP = (1 / 3, 2 / 9, 1 / 9)
SELECTORS_PER_BUDGET = 5  # and the full-token arm: 16
TEXT_TOKENS, NEW_TOKENS = 60, 4
WORKERS = (1, 8, 64)
RANKS = 8  # of a cell, as `gpus=8` starts them
BYTES_PER_RECORD = 560  # as measured on the embedded tasks


@dataclass(frozen=True)
class Rates:
    """FLOP/s of the vision encoder and of a prefill; seconds per generated token of the basis model."""

    encoder: float
    prefill: float
    token: float
    device: str


def main() -> None:
    """Plan, or merge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    plan_parser = commands.add_parser("plan", help="the paper's study")
    plan_parser.add_argument(
        "--rates", type=float, nargs=3, metavar=("TOWER", "PREFILL", "TOKEN"), help="TFLOP/s, TFLOP/s, ms"
    )
    plan_parser.add_argument("--batch", type=int, default=1, help="questions per batch when measuring")
    merge_parser = commands.add_parser("merge", help="synthetic records")
    merge_parser.add_argument("--rows", type=int, default=100_000)
    merge_parser.add_argument("--dir", type=Path, help="where the temporary run folder is made")
    read_parser = commands.add_parser("read", help="records of a report, all arms and two of them")
    read_parser.add_argument("--rows", type=int, default=100_000)
    read_parser.add_argument("--dir", type=Path, help="where the temporary run folder is made")
    args = parser.parse_args()
    if args.command == "merge":
        merge(args.rows, args.dir)
    elif args.command == "read":
        read(args.rows, args.dir)
    elif args.rates:
        encoder, prefill, token = args.rates
        plan(Rates(encoder * 1e12, prefill * 1e12, token / 1e3, "as given"))
    else:
        plan(measure(args.batch))


def measure(batch: int) -> Rates:
    """The three rates on this device."""
    import torch

    from zoo_exp.measure.cost_model import CostModel
    from zoo_exp.models.families import architecture
    from zoo_exp.models.loading import load_model

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", "float16") if cuda else ("cpu", "float32")
    model = load_model(BASIS, weights="random", layers=1, dtype=dtype, device=device).model
    costs, layers = CostModel(model.config), architecture(BASIS).text_config.num_hidden_layers

    def seconds(work: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(3):
            if cuda:
                torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        return best

    with torch.inference_mode():
        pixels = torch.randn(batch, 3, 336, 336, device=device, dtype=model.dtype)
        embeds = torch.randn(
            batch, 256, model.config.text_config.hidden_size, device=device, dtype=model.dtype
        )
        decoder = model.model.language_model
        encoder = seconds(lambda: model.model.get_image_features(pixel_values=pixels))
        prefill = seconds(lambda: decoder(inputs_embeds=embeds, use_cache=False))
        token = seconds(lambda: decoder(inputs_embeds=embeds[:, :1], use_cache=False))
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} thread(s)"
    vision_flops = batch * (costs.encoder(576) + costs.projector(576))
    return Rates(
        vision_flops / encoder,
        batch * costs.decoder(256, 256) / prefill,
        token * layers / batch,
        f"{name}, batch {batch}",
    )


def plan(rates: Rates) -> None:
    """Print hours, records, bytes and wall times."""
    from zoo_exp import tasks
    from zoo_exp.config.compose import compose
    from zoo_exp.measure.cost_model import CostModel
    from zoo_exp.models.families import architecture

    nine = compose(["selector=full", "model=llava15_7b"]).tasks
    questions = {name: int(tasks.get(name).source.rows or 0) for name in nine}
    arms = 1 + SELECTORS_PER_BUDGET * len(KEEP)
    basis = CostModel(architecture(BASIS)).decoder(1, 1)
    print(
        f"{rates.device}: encoder {rates.encoder / 1e12:.3g} TFLOP/s, prefill {rates.prefill / 1e12:.3g} TFLOP/s, "
        f"{rates.token * 1e3:.3g} ms per new token\n{len(MODELS)} models x {len(nine)} tasks x {arms} arms\n"
    )
    print(f"{'model':<36}{'questions':>10}{'records':>12}{'GB':>7}{'hours':>10}{'one arm at a time':>19}")
    cells, records = [], 0
    for name, n_visual in MODELS.items():
        costs = CostModel(architecture(name))
        vision = (costs.encoder(n_visual) + costs.projector(n_visual)) / rates.encoder
        token = rates.token * costs.decoder(1, 1) / basis
        kept = [n_visual, *(int(n_visual * keep) for keep in KEEP for _ in range(SELECTORS_PER_BUDGET))]
        each = [costs.prefill(TEXT_TOKENS + k) / rates.prefill + NEW_TOKENS * token for k in kept]
        hours = {task: count * (vision + sum(each)) / 3600 for task, count in questions.items()}
        apart = sum(questions.values()) * (len(kept) * vision + sum(each)) / 3600
        count = sum(questions.values()) * arms
        cells += hours.values()
        records += count
        total = sum(hours.values())
        print(
            f"{name:<36}{sum(questions.values()):>10}{count:>12}{count * BYTES_PER_RECORD / 1e9:>7.1f}"
            f"{total:>10.1f}{apart:>19.1f}"
        )
    print(f"\n{'all':<36}{'':>10}{records:>12}{records * BYTES_PER_RECORD / 1e9:>7.1f}{sum(cells):>10.1f}")
    for workers in WORKERS:
        line = f"wall time with {workers:>2} workers: {makespan(cells, workers):9.1f} h"
        if workers >= RANKS:
            shared = makespan([cell / RANKS for cell in cells], workers // RANKS)
            line += f"; {RANKS} of them to a cell (gpus={RANKS}): {shared:9.1f} h"
        print(line)
    print(f"(the largest cell alone: {max(cells):.1f} h)")


def makespan(costs: Sequence[float], workers: int) -> float:
    """When the last worker ends if each takes the longest cell that is left."""
    loads = [0.0] * workers
    for cost in sorted(costs, reverse=True):
        loads[loads.index(min(loads))] += cost
    return max(loads)


def merge(rows: int, place: Path | None) -> None:
    """Write `rows` records into journals of four ranks, merge them, check the result, and say what it took."""
    from zoo_exp.runs.journal import Journal
    from zoo_exp.runs.merge import merge as merge_records

    arms, folder = 16, Path(tempfile.mkdtemp(prefix="scale-", dir=place))
    try:
        started = time.perf_counter()
        for rank in range(4):
            with Journal(folder, "records", "cell", rank) as journal:
                numbers = range(rank, -(-rows // arms), 4)
                for start in range(0, len(numbers), 64):
                    journal.append(
                        synthetic(n, arm)
                        for n in numbers[start : start + 64]
                        for arm in range(min(arms, rows - n * arms))
                    )
        written = time.perf_counter() - started
        size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
        started, busy = time.perf_counter(), time.process_time()
        count = merge_records(folder)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        assert count == rows, f"{count} rows came out of {rows}"
        sizes = {p.suffix[1:]: round(p.stat().st_size / 1e9, 2) for p in sorted(folder.glob("records.*"))}
        print(
            json.dumps(
                {
                    "rows": rows, "journal_gb": round(size / 1e9, 2), "bytes_per_record": round(size / rows),
                    "write_s": round(written, 1), "merge_s": round(seconds, 1), "merge_cpu_s": round(busy, 1),
                    "peak_gib": round(peak, 2),
                    "merged_gb": sizes,
                }
            )
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)


def read(rows: int, place: Path | None) -> None:
    """Peak memory of reading `rows` records of 16 arms: mappings first (as before), columns, and two arms (`compare`).

    The peak is that of the resident set above what is held before (Linux).
    """
    import pandas as pd

    from zoo_exp.runs import reading

    with tempfile.TemporaryDirectory(dir=place) as name:
        folder, arms = Path(name), 16
        with (folder / "records.jsonl").open("w") as file:
            for number in range(rows):
                file.write(json.dumps(synthetic(number // arms, number % arms)) + "\n")
        ways: dict[str, Callable[[], object]] = {
            "two of 16 arms (compare)": lambda: reading.read_records(folder, {f"{n:012x}" for n in (1, 2)}),
            "columns (report)": lambda: reading.read_records(folder),
            "mappings, then a frame": lambda: pd.DataFrame(
                list(reading.records(folder)), columns=list(reading.COLUMNS)
            ),
        }
        reading.read_records(folder, {f"{0:012x}"})  # imports
        print(
            f"{rows} records of {arms} arms, {(folder / 'records.jsonl').stat().st_size / rows:.0f} bytes each"
        )
        for what, work in ways.items():
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")
            held, busy = _status_bytes("VmRSS"), time.process_time()
            result = work()
            peak, busy = _status_bytes("VmHWM") - held, time.process_time() - busy
            del result
            print(
                f"{what:26s} peak {peak / 2**20:8.1f} MiB  {peak / rows:7.0f} bytes per record  {busy:6.1f} s"
            )


def _status_bytes(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def synthetic(number: int, arm: int) -> dict[str, object]:
    """A record of the size and shape of a real one."""
    from zoo_exp.runs.records import Record

    record = Record(
        task="vqav2_val", cell="cell", arm=f"arm {arm} @64", arm_id=f"{arm:012x}", row=f"arm {arm} @64", selector="zoo",
        options={"fusion": "multiply"}, budget="64", seed=0, sample_id=str(number), image_id=str(number // 5),
        question=f"What is at place {number % 576} of it?", reference="yes", response="no", score=0.0,
        parts={"score": 0.0, "answers": ["yes"] * 3}, kept_tokens=64, layer_tokens=None, n_visual=576,
        prompt_tokens=124, new_tokens=2, flops_tflop=2.123456789,
    )  # fmt: skip
    return record.to_row()


if __name__ == "__main__":
    main()
