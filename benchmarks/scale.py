"""Scale: the cost of the paper's whole study, and records and merge with millions of rows.

    python benchmarks/scale.py plan                    # 4 models x 9 tasks x 16 arms from costs measured on this device
    python benchmarks/scale.py plan --rates 250 180 25 # TFLOP/s of encoder and prefill, ms per token
    python benchmarks/scale.py merge --rows 1000000    # write journals, merge, print time, memory and bytes
    python benchmarks/scale.py read                    # processor time and memory of report and compare

The plan measures one vision pass, one prefill and one decoding step on the real shapes of LLaVA-1.5-7B (random
weights; the decoder's first layer represents all 32) and scales them by each model's FLOPs. Selectors are excluded:
they cost 1 to 60 ms per question (see benchmarks/selection.py). Wall times assume that each worker runs one cell at a
time, the longest first, as in a SLURM array; the largest cell is a lower bound unless several workers share it.
"""

import argparse
import json
import multiprocessing
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
ARMS = 16
TASKS = ("gqa", "pope", "vqav2_val")
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
        "--rates", type=float, nargs=3, metavar=("ENCODER", "PREFILL", "TOKEN"), help="TFLOP/s, TFLOP/s, ms"
    )
    plan_parser.add_argument("--batch", type=int, default=1, help="questions per batch when measuring")
    merge_parser = commands.add_parser("merge", help="synthetic records")
    merge_parser.add_argument("--rows", type=int, default=100_000)
    merge_parser.add_argument("--dir", type=Path, help="where the temporary run folder is made")
    read_parser = commands.add_parser("read", help="processor time and memory of report and compare")
    read_parser.add_argument("--answers", type=int, nargs="+", default=[200_000, 800_000, 1_600_000])
    read_parser.add_argument("--dir", type=Path, help="where the temporary run folders are made")
    args = parser.parse_args()
    if args.command == "merge":
        merge(args.rows, args.dir)
    elif args.command == "read":
        read(args.answers, args.dir)
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


def read(sizes: Sequence[int], place: Path | None) -> None:
    """Print processor time and peak memory of `report` and `compare` for made-up runs of some sizes, and the slopes.

    Each is measured in a process of its own, which starts with the imports made. A slope is the additional memory per
    additional answer. Figures, whose cost does not depend on the answers, are not drawn.
    """
    from zoo_exp.report import run_document, runs, tables_paired
    from zoo_exp.runs.load import load_run
    from zoo_exp.statistics.compare_runs import compare_runs

    def report(run: Path) -> None:
        run_document.markdown_document(runs.results_of(load_run(run)))

    def compare(run: Path) -> None:
        tables_paired.document(compare_runs([run], [label(1), label(2)]), 10)

    print("| command | answers | processor time | per million | peak memory | per additional answer |")
    print("|---|--:|--:|--:|--:|--:|")
    last: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(dir=place) as name:
        few = Path(name) / "few"
        made_up_run(few, 480)
        for size in sizes:
            run = Path(name) / f"{size}"
            answers = made_up_run(run, size)
            for what, work in (("report", report), ("compare", compare)):
                seconds, peak = in_a_process(
                    lambda work=work, run=run: work(run), lambda work=work: work(few)
                )
                slope = (
                    f"{(peak - last[what][1]) / (answers - last[what][0]):.0f} bytes" if what in last else "-"
                )
                last[what] = answers, peak
                print(
                    f"| `{what}` | {answers:,} | {seconds:.1f} s | {seconds / answers * 1e6:.0f} s "
                    f"| {peak / 1e6:.0f} MB | {slope} |",
                    flush=True,
                )


def in_a_process(work: Callable[[], None], before: Callable[[], None]) -> tuple[float, int]:
    """Processor time of some work, and the peak memory of a process that did it [s, bytes].

    Args:
        work: what is measured.
        before: what is done before without being timed, for imports and caches.
    """
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def measure() -> None:
        before()
        busy = time.process_time()
        work()
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        results.put((time.process_time() - busy, peak))

    process = context.Process(target=measure)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"a measurement ended with exit code {process.exitcode}")
    seconds, peak = results.get()
    return float(seconds), int(peak)


def made_up_run(run: Path, answers: int) -> int:
    """Write the folder of a run as it is after its end: records sorted by task, arm and question; their number."""
    run.mkdir(parents=True)
    arms = [
        {"arm": label(n), "arm_id": f"{n:012x}", "row": label(n), "seed": 0}
        | {"selector": "full" if n == 0 else f"method{n}", "options": {}, "budget": None if n == 0 else "64"}
        for n in range(ARMS)
    ]
    model = {"name": "llava15_7b", "path": BASIS, "revision": None, "dtype": "float16", "attention": "sdpa"}
    experiment = {
        **{
            "name": "scale",
            "question": "",
            "id": run.name,
            "overrides": [],
            "seed": 0,
            "limit": None,
            "out": "runs",
        },
        **{"model": model | {"weights": "pretrained", "layers": None}, "tasks": list(TASKS), "arms": arms},
    }
    content = {"experiment": experiment, "provenance": {"zoo-exp": "0.0.1"}}
    (run / "experiment.json").write_text(json.dumps(content))
    questions = answers // (ARMS * len(TASKS))
    with (run / "records.jsonl").open("w") as file:
        for task in TASKS:
            for arm in range(ARMS):
                for number in range(questions):
                    file.write(json.dumps(synthetic(number, arm, task)) + "\n")
    return questions * ARMS * len(TASKS)


def label(arm: int) -> str:
    """Label of a made-up arm."""
    return "full" if arm == 0 else f"method{arm} @64"


def synthetic(number: int, arm: int, task: str = "vqav2_val") -> dict[str, object]:
    """A record of the size and shape of a real one."""
    from zoo_exp.runs.records import Record

    right = (number * 2654435761 + arm * 40503) % 97 > 20 + arm
    response = ("yes" if right else "no") if number % 50 else f"free text {number} {arm}"
    score = float(right and number % 50 > 0)
    parts = {"score": score, "answer_type": "yes/no"} if task.startswith("vqav2") else {"score": score}
    if task == "pope":
        parts |= {"prediction": "yes" if score else "no", "ground_truth": "yes", "category": "random"}
    record = Record(
        task=task, cell=f"cell of {task}", arm=label(arm), arm_id=f"{arm:012x}", row=label(arm),
        selector="full" if arm == 0 else f"method{arm}", options={}, budget="64" if arm else None, seed=0,
        sample_id=f"{number:09d}", image_id=f"COCO_val2014_{number // 3:012d}.jpg",
        question=f"What is at place {number % 576} of it?", reference="yes", response=response, score=score,
        parts=parts, kept_tokens=64 if arm else 576, layer_tokens=None, n_visual=576, prompt_tokens=100 + number % 40,
        new_tokens=2 + number % 3, flops_tflop=2.123456789 + (number % 40) / 128, prefill_tflop=1 + (number % 40) / 128,
        selector_tflop=0.001,
    )  # fmt: skip
    return record.to_row()


if __name__ == "__main__":
    main()
