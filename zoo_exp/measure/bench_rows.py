"""`Row`: measurements of one arm at one batch size, and derived values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.cost_model import StageFlops
from zoo_exp.measure.stages import FIRST_TOKEN, SELECTOR, STAGES
from zoo_exp.measure.timing import NOISE, Spread

HEADLINE = ("selector", "prefill", "ttft", "end_to_end")
"""Times for which a row is marked as noisy if their spread is too large."""
SHOWN = {"ttft": "first token", "end_to_end": "end to end"}
"""What tables call them."""


@dataclass(frozen=True)
class Conditions:
    """Conditions that must be equal for two rows to be comparable.

    Attributes:
        model: name of the model.
        layers: number of decoder layers.
        device: name of the GPU, or CPU.
        threads: number of torch threads on the CPU.
        dtype: dtype of the weights.
        attention: attention backend.
        new_tokens: length of every response.
        torch: version of torch.
        clock: `wall`, or `process` for CPU time of the process.
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
        """One line for the note below a table."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "CPU" else ""
        clock = ", process time" if self.clock == "process" else ""
        return (
            f"{self.model} ({self.layers} decoder layers, {self.dtype}, {self.attention} attention) on "
            f"{self.device}{threads}, torch {self.torch}, {self.new_tokens} new tokens{clock}"
        )


@dataclass(frozen=True)
class Row:
    """One arm at one batch size. Times are per batch, FLOPs per response.

    Attributes:
        passes: milliseconds of every stage, one entry per timed pass; stages do not overlap.
        memory_mib: peak memory of a stage above that of the loaded model; `vision` includes the projector.
        status: empty, or the reason why there are no times.
        n_visual: visual tokens before pruning, mean over the batch.
        kept_tokens: visual tokens that entered the language model.
        layer_tokens: visual tokens at the input of a decoder layer, mean over the layers.
        prompt_tokens: columns of the prompt that entered the language model.
        first_selector_ms: time of the selector's first call, including once-per-model work.
        flops: FLOPs by stage, from shapes; those of the selector as counted by torch, if available.
        counted_flops: FLOPs of all stages as counted by torch.
        paper_flops: FLOPs by the paper's formula; None if it does not apply.
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
        """Milliseconds of a stage or a sum of stages, over the timed passes.

        `selector`: score and select. `ttft`: time to first token, from the vision encoder to the first logits.
        `end_to_end`: all stages. `decode_per_token`: time per token after the first.
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
        """Share of the selector in the time to first token, by pass."""
        pairs = zip(self.times("selector").values, self.times("ttft").values, strict=True)
        return Spread([selector / whole for selector, whole in pairs])

    @property
    def noisy(self) -> list[str]:
        """Headline times with a spread above the bound."""
        return [name for name in HEADLINE if self.times(name).noisy]

    @property
    def remark(self) -> str:
        """Remark on the row in tables."""
        if self.status or not self.noisy:
            return self.status
        worst = max(self.times(name).relative for name in self.noisy)
        names = ", ".join(SHOWN.get(name, name) for name in self.noisy)
        return f"noisy: {names} spread up to {100 * worst:.0f} % (bound {100 * NOISE:.0f} %)"

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values, see `from_dict`."""
        values = asdict(self)
        if self.flops is not None:  # `bench.json` keeps the key of earlier versions for the vision encoder
            values["flops"] = {"tower": values["flops"].pop("encoder"), **values["flops"]}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Row":
        """Create a row from the result of `as_dict`."""
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
    """Check that rows of one table were measured under the same conditions.

    Raises:
        InvalidValueError: conditions differ; the message names them and the arms.
    """
    for row in rows[1:]:
        first, other = asdict(rows[0].conditions), asdict(row.conditions)
        differing = [
            f"{name} {first[name]} and {other[name]}" for name in first if first[name] != other[name]
        ]
        if differing:
            raise InvalidValueError(
                f"arms '{rows[0].arm}' and '{row.arm}' were measured under different conditions "
                f"({'; '.join(differing)}): their times are not comparable; measure them again in one bench"
            )
