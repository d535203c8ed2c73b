"""Cost of all arms compared with the full-token arm alone: processor time of two runs of the fusion ablation.

    python benchmarks/arms.py [limit]    # questions of each of the nine tasks, default 20

Both runs load the model, create the questions, generate responses and write records; the second has every arm of the
experiment in addition to `full` (without `blind` and `random`). All arms share one vision pass and, where their scores
are equal, one scoring pass; controls share the sensitivity that they change.
"""

import sys
import tempfile
import time

from rich.console import Console

from zoo_exp import pipeline
from zoo_exp.config.compose import compose

LEFT_OUT = ("blind", "random")


def seconds(keep: tuple[str, ...] | None, limit: int) -> tuple[int, float]:
    """Arms and processor seconds of a run with the experiment's arms, or with the selectors in `keep` alone."""
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as out:
        experiment = compose(["+exp=ablation_fusion", f"limit={limit}", f"out={out}", "logger=none"])
        arms = tuple(
            arm for arm in experiment.arms if (arm.selector in keep if keep else arm.selector not in LEFT_OUT)
        )
        started = time.process_time()
        pipeline.run(replace(experiment, arms=arms), Console(quiet=True))
        return len(arms), time.process_time() - started


def main() -> None:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seconds(("full",), 4)  # warm-up: imports, the world's material
    one, alone = seconds(("full",), limit)
    many, together = seconds(None, limit)
    print(f"questions {9 * limit}")
    print(f"{one:3d} arm  (full)  {alone:7.1f} s")
    print(f"{many:3d} arms         {together:7.1f} s   {together / alone:.2f}x")


if __name__ == "__main__":
    main()
