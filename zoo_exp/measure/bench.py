"""`run_bench`: measures every stage for every arm on the same prompts; one row per arm and batch size."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.bench_rows import Conditions, Row
from zoo_exp.measure.cost_model import PaperCosts, StageFlops, costs_of
from zoo_exp.measure.memory import PeakMemory, is_out_of_memory
from zoo_exp.measure.stages import SELECTOR, FlopProbe, Outcome, answer, exclusive
from zoo_exp.measure.timing import StageClock, marks_for
from zoo_exp.models.loading import LoadedModel

OUT_OF_MEMORY = "out of memory"
Prepare = Callable[[int], Callable[[], Mapping[str, Any]]]
"""Batch size -> a function that creates the inputs of one batch on the model's device."""


class Arm(Protocol):
    """Interface of an arm; implemented by `config.experiment.Arm`."""

    label: str
    selector: str
    options: Mapping[str, Any]
    budget: Budget | None

    def build(self) -> Any:
        """Build the selector."""


@dataclass(frozen=True)
class Plan:
    """Settings of a benchmark.

    Attributes:
        batch_sizes: batch sizes; every arm runs at each of them.
        new_tokens: length of every response.
        repeats: timed passes of every arm.
        warmup: passes of every arm before the timed ones, in addition to one for memory and one for FLOPs.
        clock: `wall`, or `process` for the CPU time of one thread, on machines with other load.
    """

    batch_sizes: Sequence[int] = (1,)
    new_tokens: int = 16
    repeats: int = 10
    warmup: int = 2
    clock: str = "wall"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("new_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name}={getattr(self, name)}: it must be at least 1")
        if self.warmup < 0:
            raise InvalidValueError(f"warmup={self.warmup}: it must be at least 0")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InvalidValueError(f"batch={list(self.batch_sizes)}: batch sizes are whole numbers above 0")


def run_bench(
    loaded: LoadedModel,
    arms: Sequence[Arm],
    prepare: Prepare,
    plan: Plan,
    say: Callable[[str], None] = lambda _: None,
    inspect: bool = True,
) -> list[Row]:
    """Measure every arm at every batch size.

    Arms alternate within each repeat, so that changes of the machine's speed affect all of them. If an arm runs out of
    memory, its row states this, and the other arms continue.

    Args:
        loaded: the model, on the target device.
        arms: arms to compare.
        prepare: creates inputs.
        plan: settings of the benchmark.
        say: callback for progress messages.
        inspect: measure memory and count FLOPs in two additional passes; otherwise rows have no memory, and FLOPs from
            shapes only (for selectors that take minutes).

    Raises:
        InvalidValueError: an arm prunes nothing, or changes the attention backend.
    """
    marks_for(next(loaded.model.parameters()).device, plan.clock)  # raises before anything runs
    rows = []
    for batch_size in plan.batch_sizes:
        make = prepare(batch_size)
        check_budgets(loaded, arms, make())
        runs = [_Runs(loaded, arm, make, plan, batch_size, inspect) for arm in arms]
        for turn in range(-plan.warmup, plan.repeats):
            for run in runs:
                if run.first:
                    say(f"batch {batch_size}: {run.arm.label}")
                run.once(timed=turn >= 0)
        rows += [run.row() for run in runs]
    return rows


def check_budgets(loaded: LoadedModel, arms: Sequence[Arm], inputs: Mapping[str, Any]) -> None:
    """Refuse arms that would prune nothing, before any of them runs; budgets per tile are checked after a run.

    Raises:
        InvalidValueError: a budget keeps every visual token of the prompt with the fewest tokens, or exceeds them.
    """
    visual = (inputs["input_ids"] == loaded.adapter.image_token_id).sum(dim=1).tolist()
    n_visual = min((count for count in visual if count), default=0)
    for arm in arms:
        if arm.budget is None or arm.budget.per == "tile":
            continue
        if arm.budget.resolve(n_visual) >= n_visual:
            raise _prunes_nothing(arm, f"keeps all {n_visual} visual tokens")


def _prunes_nothing(arm: Arm, found: str) -> InvalidValueError:
    return InvalidValueError(
        f"budget {arm.budget} of arm '{arm.label}' {found}: nothing is pruned; give a smaller "
        "budget, or selector=full for the unpruned model"
    )


class _Runs:
    """All passes of one arm at one batch size."""

    def __init__(
        self,
        loaded: LoadedModel,
        arm: Arm,
        make: Callable[[], Mapping[str, Any]],
        plan: Plan,
        batch_size: int,
        inspect: bool,
    ) -> None:
        self.loaded, self.arm, self.make, self.plan, self.batch_size = loaded, arm, make, plan, batch_size
        self.inspect = inspect
        self.selector = arm.build()
        self.device = next(loaded.model.parameters()).device
        self.passes: list[dict[str, float]] = []
        self.first, self.status = True, ""
        self.memory: dict[str, float] = {}
        self.facts: dict[str, Any] = {}

    def once(self, timed: bool) -> None:
        """Run one pass, unless the arm has run out of memory."""
        if self.status:
            return
        try:
            first, self.first = self.first, False
            if first and self.inspect:
                self._inspect()
            times = self._time()
            if timed:
                self.passes.append(times)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.status = OUT_OF_MEMORY
        if self.status:  # outside of `except`, whose traceback references the tensors
            _free(self.device)

    def row(self) -> Row:
        """The measured row."""
        return Row(
            conditions=conditions(self.loaded, self.plan),
            arm=self.arm.label,
            selector=self.arm.selector,
            options=dict(self.arm.options),
            budget=None if self.arm.budget is None else str(self.arm.budget),
            batch_size=self.batch_size,
            passes=self.passes,
            memory_mib=self.memory,
            status=self.status,
            **self.facts,
        )

    def _time(self) -> dict[str, float]:
        clock = StageClock(marks_for(self.device, self.plan.clock))
        outcome = self._answer(clock)
        times = exclusive(clock.read(), outcome.inside)
        if not self.facts:
            n_visual = _mean(_visual(outcome))
            layer_tokens = _mean([_mean(row) for row in outcome.layer_tokens])
            if self.arm.budget is not None and layer_tokens >= n_visual:
                raise _prunes_nothing(self.arm, f"kept all {n_visual:.0f} visual tokens")
            self.facts = {
                "n_visual": n_visual,
                "kept_tokens": _mean(outcome.kept_tokens),
                "layer_tokens": layer_tokens,
                "prompt_tokens": outcome.length,
                "first_selector_ms": sum(times[stage] for stage in SELECTOR),
                "flops": self._flops(outcome),
                "paper_flops": self._paper_flops(outcome),
            }
        return times

    def _inspect(self) -> None:
        """The first passes: once-per-model work of the selector, token counts, memory, FLOPs."""
        self._time()
        memory = PeakMemory(self.device)
        self._answer(memory)
        self.memory = memory.peaks
        with FlopProbe() as counter:
            outcome = self._answer(counter)
        flops = exclusive(counter.flops, outcome.inside)
        counted_selector = int(flops["score"] + flops["select"]) // self.batch_size
        known = self._flops(outcome)
        self.facts["flops"] = None if known is None else replace(known, select=counted_selector)
        self.facts["counted_flops"] = int(sum(flops.values())) // self.batch_size

    def _answer(self, probe: Any) -> Outcome:
        backends = attention_backends(self.loaded.model)
        outcome = answer(self.loaded, self.make, self.selector, self.arm.budget, self.plan.new_tokens, probe)
        if attention_backends(self.loaded.model) != backends:
            raise InvalidValueError(
                f"arm '{self.arm.label}' changes the attention backend: its times are not comparable"
            )
        return outcome

    def _flops(self, outcome: Outcome) -> StageFlops | None:
        """FLOPs of one response, on average, from shapes; None if the model family has no formula.

        `select` is None if the selector has none.
        """
        costs, rows = costs_of(self.loaded.model.config), len(outcome.tokens)
        if costs is None:
            return None
        input_selector = None if outcome.inside else self.selector
        options = (self.plan.new_tokens, input_selector, self.arm.budget, self.selector.captures)
        stages = [
            costs.stages(images, _lengths(outcome, row), *options)
            for row, images in enumerate(outcome.tokens)
        ]
        known = [s.select for s in stages if s.select is not None]
        return StageFlops(
            sum(s.encoder for s in stages) // rows,
            sum(s.projector for s in stages) // rows,
            sum(known) // rows if len(known) == rows and not outcome.inside else None,
            sum(s.prefill for s in stages) // rows,
            sum(s.decode for s in stages) // rows,
        )

    def _paper_flops(self, outcome: Outcome) -> int | None:
        """FLOPs of one response by the paper's formulas, which do not cover layer selectors and other families."""
        if outcome.inside or costs_of(self.loaded.model.config) is None:
            return None
        costs, n_visual = PaperCosts(self.loaded.model.config), _visual(outcome)
        return sum(costs.answer(n, outcome.length, self.selector) for n in n_visual) // len(n_visual)


def conditions(loaded: LoadedModel, plan: Plan) -> Conditions:
    """The conditions that must be equal for two rows to be comparable."""
    parameter = next(loaded.model.parameters())
    cuda = parameter.device.type == "cuda"
    return Conditions(
        model=loaded.name,
        layers=len(loaded.adapter.layers),
        device=torch.cuda.get_device_name(parameter.device) if cuda else "CPU",
        threads=torch.get_num_threads(),
        dtype=str(parameter.dtype).removeprefix("torch."),
        attention=attention_backends(loaded.model),
        new_tokens=plan.new_tokens,
        torch=str(torch.__version__),
        clock=plan.clock,
    )


def attention_backends(model: Any) -> str:
    """Attention backends of vision encoder and language model; one name if they are equal."""
    config = model.config
    parts = (config.get_text_config(), config.vision_config)
    return " + ".join(sorted({str(part._attn_implementation) for part in parts}))


def _lengths(outcome: Outcome, row: int) -> list[int]:
    """Columns at the input of every decoder layer, including padding, which is computed as well."""
    text = outcome.length - outcome.layer_tokens[row][0]
    return [text + count for count in outcome.layer_tokens[row]]


def _visual(outcome: Outcome) -> list[int]:
    """Visual tokens before pruning, by row."""
    return [sum(image.count for image in row) for row in outcome.tokens]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
