"""Compare vLLM with transformers on pruned prompts: equal token ids, and throughput on responses of 64 tokens.

    make vllm-env && build/vllm/bin/python benchmarks/engines.py          # every embedded family, minutes on a CPU
    build/vllm/bin/python benchmarks/engines.py embedded_qwen --questions 10

Both engines get the same visual tokens, dtype and prompts. Times are those of prefill and decoding, without the vision
encoder and the selector, the best of three; transformers answers in batches, vLLM gets all prompts at once.
"""

import argparse
import os
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.embedded.shipped import shipped_folder
from zoo_exp.models.answering import EncodedBatch, select
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.generators import HfGenerator
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt, prune_prompt
from zoo_exp.models.responses import count_new
from zoo_exp.serving.vllm_engine import EngineOptions, VllmGenerator
from zoo_exp.tasks import data, get

MODELS = {
    "embedded": ("world2_gqa", "world2_vqav2", "world2_pope"),
    "embedded_qwen": ("world2_gqa", "world2_vqav2", "world2_pope"),
    "embedded_next": ("world2_tiles_gqa",),
}
"""Model -> tasks that the questions are from."""
ARMS = (("full", None), ("zoo", 16), ("divprune", 16), ("random", 8), ("blind", None))
LONG, REPEATS = 64, 3


Part = tuple[PrunedPrompt, list[list[int]], list[str]]
"""A batch of pruned prompts, the kept tokens of their images, and their names."""


def prompts_of(loaded: LoadedModel, questions: int, batch: int) -> dict[tuple[str, str], list[Part]]:
    """(arm, positions) -> batches of pruned prompts."""
    names, rows = MODELS[loaded.name], []
    for name in names:
        task = get(name)
        rows += [(task, doc) for doc in data.load(task, None, -(-questions // len(names)))]
    built = {name: selectors.get(name) for name, _ in ARMS}
    needs = frozenset().union(*(selector.captures for selector in built.values()))
    policies = ("contiguous", "original") if loaded.adapter.positions == "original" else ("contiguous",)
    made: dict[tuple[str, str], list[Part]] = {}
    for at in range(0, questions, batch):
        part = rows[at : min(at + batch, questions)]
        inputs = chat_inputs(
            loaded.processor, [user_turn(task.content(doc, "embedded")) for task, doc in part]
        )
        encoded = EncodedBatch(inputs, loaded.adapter.encode(inputs, needs))
        ids = [f"{task.name}/{task.sample_id(doc)}" for task, doc in part]
        for name, count in ARMS:
            # A budget above the tokens of a small image keeps all of them.
            budget = None if count is None else Budget(count=count, at_most=True)
            chosen = select(built[name], encoded.tokens, budget, ids).selections
            images = [[len(one.indices) for one in row] for row in chosen]
            for positions in policies:
                prompt = prune_prompt(loaded.adapter, inputs, encoded.tokens, chosen, positions)
                label = name if count is None else f"{name} @{count}"
                made.setdefault((label, positions), []).append((prompt, images, ids))
    return made


def by_transformers(engine: HfGenerator, parts: Sequence[Part], **options: Any) -> list[list[int]]:
    """The new ids of every prompt, batch by batch."""
    found: list[list[int]] = []
    for prompt, images, names in parts:
        ids = engine.generate(prompt, images, names, do_sample=False, **options)
        found += [row[:n] for row, n in zip(ids.tolist(), count_new(engine.model, ids), strict=True)]
    return found


def by_vllm(engine: VllmGenerator, parts: Sequence[Part], **options: Any) -> list[list[int]]:
    """The new ids of every prompt; the prompts of all batches are given at once."""
    requests, sampling = [], {}
    for prompt, images, names in parts:
        own, sampling = engine.requests.made(prompt, images, names, {"do_sample": False, **options})
        requests += own
    return engine.answer(requests, sampling)


def equal(one: Sequence[list[int]], other: Sequence[list[int]]) -> str:
    """How many responses have the same ids."""
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)}"


def compare(name: str, questions: int, batch: int) -> None:
    """Print the rows of one model."""
    loaded = zoo_exp.load_model(name)
    made = prompts_of(loaded, questions, batch)
    options = EngineOptions(dtype="float32", max_model_len=1024)
    hf, vllm = HfGenerator(loaded.model), VllmGenerator(loaded, shipped_folder(name), options)
    try:
        engines = (
            lambda parts, **more: by_transformers(hf, parts, **more),
            lambda parts, **more: by_vllm(vllm, parts, **more),
        )
        print(f"\n{name} ({vllm.requests.way}): {vllm.name}, transformers {version('transformers')}\n")
        print(f"| arm | positions | equal | equal, {LONG} tokens | transformers | vLLM |")
        print("|---|---|--:|--:|--:|--:|")
        for (label, positions), parts in made.items():
            short = [engine(parts, max_new_tokens=24) for engine in engines]
            long, seconds = [[], []], [[], []]
            for _ in range(REPEATS):  # in turn, so that other work on the machine meets both
                for number, engine in enumerate(engines):
                    started = time.perf_counter()
                    long[number] = engine(parts, max_new_tokens=LONG, min_new_tokens=LONG)
                    seconds[number].append(time.perf_counter() - started)
            rates = [f"{questions / min(own):.0f} q/s" for own in seconds]
            cells = [label, positions, equal(*short), equal(*long), *rates]
            print(f"| {' | '.join(cells)} |", flush=True)
        everything = [part for parts in made.values() for part in parts]
        together = [engine(everything, max_new_tokens=24) for engine in engines]
        print(f"| all in one call | | {equal(*together)} | | | |", flush=True)
    finally:
        vllm.close()


def main() -> None:
    """Compare the models of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS), help=f"of {', '.join(MODELS)}")
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--batch", type=int, default=15, help="prompts that transformers answers together")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        for name in given.models:
            compare(name, given.questions, given.batch)


if __name__ == "__main__":
    main()
