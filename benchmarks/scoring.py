"""Time to score 100,000 VQA responses against ten annotators each, on one core.

Run: python benchmarks/scoring.py
"""

import random
import time

from zoo_exp import tasks
from zoo_exp.tasks.scoring import evalai

WORDS = (
    "yes",
    "no",
    "the",
    "two",
    "dogs",
    "t-shirt",
    "1,000",
    "it's",
    "dont",
    "a",
    "u.s.a.",
    "sign!",
    "(blue)",
)
N = 100_000


def answer(rng: random.Random) -> str:
    """A random answer of one to four words and a number: few repeat, so that the cache helps little."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 4))) + f" {rng.randrange(10**6)}"


def main() -> None:
    """Print answers, seconds and answers per second of both VQA tasks."""
    rng = random.Random(0)
    for name in ("vqav2_val", "textvqa_val"):
        task = tasks.get(name)
        docs = [{"question_id": i, "answers": [answer(rng) for _ in range(10)]} for i in range(N)]
        responses = [answer(rng) for _ in range(N)]
        evalai.normalize_vqa.cache_clear()
        evalai.normalize_textvqa.cache_clear()
        start = time.perf_counter()
        rows = [
            {"sample_id": task.sample_id(doc), **task.score(doc, response)}
            for doc, response in zip(docs, responses, strict=True)
        ]
        task.aggregate(rows)
        seconds = time.perf_counter() - start
        print(f"{name}: {N} answers, all different, in {seconds:.1f} s ({N / seconds:.0f} per second)")


if __name__ == "__main__":
    main()
