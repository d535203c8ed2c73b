"""`Row`: what the bench measured of one arm at one batch size, and what follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.cost_model import StageFlops
from zoo_exp.measure.stages import FIRST_TOKEN, SELECTOR, STAGES
from zoo_exp.measure.timing import NOISE, Spread

HEADLINE = ("selector", "prefill", "ttft", "end_to_end")
"""What a row is marked for if its spread is too wide."""


@dataclass(frozen=True)
class Conditions:
    """What has to be equal for two rows to compare.

    Attributes:
        model: name of the model.
        layers: decoder layers.
        device: name of the GPU, or CPU.
        threads: of torch on the CPU.
        dtype: of the weights.
        attention: attention backend.
        new_tokens: length of every answer.
        torch: its version.
        clock: `wall`, or `process` for time that the process itself computed.
    """

    model: str
    layers: int
    device: str
    threads: int
    dtype: str
    attention: str
    new_tokens: int
    torch: str
    clock: str = "wall"

    def __str__(self) -> str:
        """One line for under a table."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "CPU" else ""
        clock = ", process time" if self.clock == "process" else ""
        return (
            f"{self.model} ({self.layers} decoder layers, {self.dtype}, {self.attention} attention) on "
            f"{self.device}{threads}, torch {self.torch}, {self.new_tokens} new tokens{clock}"
        )


@dataclass(frozen=True)
class Row:
    """One arm at one batch size. Times are of a whole batch, FLOPs of one answer.

    Attributes:
        passes: milliseconds of every stage, one entry per timed pass; stages do not overlap.
        memory_mib: peak memory of a stage above what the model itself holds; `vision` includes the projector.
        status: empty, or why there are no times.
        n_visual: visual tokens before pruning, mean over the batch.
        kept_tokens: visual tokens that entered the language model.
        layer_tokens: visual tokens at the input of a decoder layer, mean over the layers.
        prompt_tokens: columns of the prompt that entered the language model.
        first_selector_ms: the selector's very first call, with what it computes once per model.
        flops: by stage, from shapes; the selector's as torch counts them, where it did.
        counted_flops: all stages as torch counts them.
        paper_flops: the paper's formula; None where it has none.
    """

    conditions: Conditions
    arm: str
    selector: str
    options: Mapping[str, Any]
    budget: str | None
    batch_size: int
    passes: Sequence[Mapping[str, float]]
    memory_mib: Mapping[str, float] = field(default_factory=dict)
    status: str = ""
    n_visual: float = float("nan")
    kept_tokens: float = float("nan")
    layer_tokens: float = float("nan")
    prompt_tokens: int = 0
    first_selector_ms: float = float("nan")
    flops: StageFlops | None = None
    counted_flops: int | None = None
    paper_flops: int | None = None

    def times(self, name: str) -> Spread:
        """Milliseconds of a stage, or of one of these sums, over the timed passes.

        `selector`: score and select. `ttft`: time to first token, from the vision encoder to the first logits.
        `end_to_end`: everything. `decode_per_token`: of each token after the first.
        """
        groups = {
            "selector": SELECTOR,
            "ttft": FIRST_TOKEN,
            "end_to_end": STAGES,
            "decode_per_token": ("decode",),
        }
        stages, steps = groups.get(name, (name,)), 1
        if name == "decode_per_token":
            steps = self.conditions.new_tokens - 1
            if not steps:
                return Spread([])
        return Spread([sum(one[stage] for stage in stages) / steps for one in self.passes])

    @property
    def selector_share(self) -> Spread:
        """The selector's share of the time to first token, pass by pass."""
        pairs = zip(self.times("selector").values, self.times("ttft").values, strict=True)
        return Spread([selector / whole for selector, whole in pairs])

    @property
    def noisy(self) -> list[str]:
        """The headline times whose spread is above the bound."""
        return [name for name in HEADLINE if self.times(name).noisy]

    @property
    def remark(self) -> str:
        """What a table says about the row."""
        if self.status or not self.noisy:
            return self.status
        worst = max(self.times(name).relative for name in self.noisy)
        return f"noisy: {', '.join(self.noisy)} spread up to {100 * worst:.0f} % (bound {100 * NOISE:.0f} %)"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes the row again."""
        values = asdict(self)
        if self.flops is not None:  # `bench.json` keeps the key of earlier versions for the vision encoder
            values["flops"] = {"tower": values["flops"].pop("encoder"), **values["flops"]}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """The row that `as_dict` wrote down."""
        flops = None if values["flops"] is None else dict(values["flops"])
        if flops is not None and "tower" in flops:
            flops["encoder"] = flops.pop("tower")
        made = {
            "conditions": Conditions(**values["conditions"]),
            "flops": None if flops is None else StageFlops(**flops),
        }
        return cls(**{**values, **made})


def baseline_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The unpruned arm at the row's batch size, or None."""
    same = (r for r in rows if r.selector == "full" and r.batch_size == row.batch_size and r.passes)
    return next(same, None)


def check_comparable(rows: Sequence[Row]) -> None:
    """Refuse to put rows into one table that were not measured alike.

    Raises:
        InvalidValueError: what differs, and between which arms.
    """
    for row in rows[1:]:
        first, other = asdict(rows[0].conditions), asdict(row.conditions)
        differing = [
            f"{name} {first[name]} and {other[name]}" for name in first if first[name] != other[name]
        ]
        if differing:
            raise InvalidValueError(
                f"arms '{rows[0].arm}' and '{row.arm}' were not measured alike ({'; '.join(differing)}): "
                "their times do not compare; measure them again in one bench"
            )
