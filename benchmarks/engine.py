"""Overhead and gain of the engine.

    python benchmarks/engine.py overhead   # embedded model: generate with hooks that keep every token, against none
    python benchmarks/engine.py prefill    # 4 layers of the real LLaVA-1.5-7B with random weights, stage by stage

`prefill` needs about 7 GB for float32 on a CPU; `--device cuda --dtype bfloat16 --layers 32` runs the whole model.
Times are medians over interleaved repeats, with one thread by default (`--threads`). With one CPU thread, they are CPU
time of the process, which is largely independent of other processes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import zoo_exp
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt, prune_prompt
from zoo_exp.selectors import get

SELECTORS = {
    "zoo, 64 directions": ("zoo", {}),
    "zoo, low rank 128": ("zoo", {"projector": "low_rank"}),
    "zoo, closed form": ("zoo", {"estimator": "closed_form"}),
    "divprune": ("divprune", {}),
}
PROMPT_WORDS = 40


def main() -> None:
    """Read the command line and run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "prefill"))
    parser.add_argument("--model", default="llava-hf/llava-1.5-7b-hf", help="architecture of `prefill`")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=0, help="0: 30 for overhead, 5 for prefill")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        overhead(options) if options.what == "overhead" else prefill(options)


def overhead(options: argparse.Namespace) -> None:
    """`generate` on a batch of the embedded model, bare and with the engine attached."""
    loaded = zoo_exp.load_model("embedded")
    inputs = embedded_inputs(loaded, batch=8)
    steps = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}

    def bare() -> None:
        loaded.model.generate(**inputs, **steps)

    def attached() -> None:
        with zoo_exp.pruned(loaded, "full"):
            loaded.model.generate(**inputs, **steps)

    times = interleaved({"bare": bare, "attached": attached}, options.repeats or 30)
    ratio = times["attached"] / times["bare"] - 1
    print(
        f"generate, batch 8, 8 new tokens: bare {times['bare']:.1f} ms, keep-all {times['attached']:.1f} ms"
    )
    print(f"overhead of the engine {ratio:+.1%} (limit 5 %)")


def embedded_inputs(loaded: LoadedModel, batch: int) -> dict[str, torch.Tensor]:
    """Questions of the packaged benchmark."""
    from zoo_exp.embedded.benchmarks import rows

    samples = rows("gqa", limit=batch)
    return chat_inputs(loaded.processor, [user_turn([s["image"], s["question"]]) for s in samples])


def prefill(options: argparse.Namespace) -> None:
    """Prefill of one image, unpruned and pruned, with every stage that comes before it."""
    loaded = zoo_exp.load_model(
        options.model,
        weights="random",
        layers=options.layers,
        dtype=options.dtype,
        device=options.device,
    )
    model, adapter, n = loaded.model, loaded.adapter, loaded.n_visual or 0
    side = model.config.vision_config.image_size
    words = torch.randint(3, 1000, (PROMPT_WORDS,))
    ids = torch.cat([words[:5], torch.full((n,), adapter.image_token_id), words[5:]])[None]
    inputs = {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": torch.randn(1, 3, side, side, dtype=model.dtype).to(model.device),
    }
    chosen = {label: get(name, **settings) for label, (name, settings) in SELECTORS.items()}
    needs = frozenset().union(*(one.needs for one in chosen.values()))
    tokens = adapter.encode(inputs, needs)

    def select(selector: object, budget: int | None) -> PrunedPrompt:
        kept = selector.select(tokens[0][0], budget, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
        return prune_prompt(adapter, inputs, tokens, [[kept]])

    prompts = {"full": select(get("full"), None), "pruned": select(get("divprune"), options.budget)}

    def read(prompt: PrunedPrompt) -> None:
        model(
            inputs_embeds=prompt.inputs_embeds,
            attention_mask=prompt.attention_mask,
            use_cache=True,
            logits_to_keep=1,
        )

    stages: dict[str, Callable[[], object]] = {
        "vision encoder and projector": lambda: adapter.encode(inputs, needs),
        "prefill, all": lambda: read(prompts["full"]),
        "prefill, pruned": lambda: read(prompts["pruned"]),
    }
    for label, selector in chosen.items():
        stages[label] = lambda selector=selector: select(selector, options.budget)
    times = interleaved(stages, options.repeats or 5)
    print(
        f"{options.model}, {options.layers} layers, random weights, {options.dtype}, {options.device}: "
        f"{n} -> {options.budget} visual tokens, {PROMPT_WORDS} text tokens"
    )
    for label in list(stages)[:3]:
        print(f"{label:<28}{times[label]:>10.1f} ms")
    print(f"{'selector and short prompt':<28}{'alone':>13}{'with prefill':>16}{'speed-up':>11}")
    for label in chosen:
        total = times[label] + times["prefill, pruned"]
        print(f"{label:<28}{times[label]:>10.1f} ms{total:>13.1f} ms{times['prefill, all'] / total:>10.2f}x")


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, taken in turns after one unmeasured round."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.process_time if alone else time.perf_counter
    times: dict[str, list[float]] = {label: [] for label in runs}
    for turn in range(repeats + 1):
        for label, run in runs.items():
            _finish()
            start = clock()
            run()
            _finish()
            if turn:
                times[label].append((clock() - start) * 1e3)
    return {label: statistics.median(values) for label, values in times.items()}


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
