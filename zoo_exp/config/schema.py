"""What a configuration may say: one dataclass per group, with the choices and bounds of each field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Optional

from omegaconf import MISSING

# Optional[...] and not X | None: OmegaConf 2.3 reads these annotations at run time on Python 3.10 too.


def choice(default: str, *others: str) -> Any:
    """A field that takes `default` or one of `others`."""
    return field(default=default, metadata={"choices": (default, *others)})


def at_least(minimum: int, default: Any) -> Any:
    """A whole number that is not below `minimum`; None where the type allows it."""
    return field(default=default, metadata={"minimum": minimum})


@dataclass
class ModelConfig:
    """A checkpoint and how it is loaded. Files: `configs/model/`."""

    name: str = MISSING
    """The name of the file, so that results can name the model."""
    family: str = choice("llava", "llava_next", "qwen2_5_vl")
    """Which adapter knows its quirks."""
    path: str = MISSING
    """A hub id, a folder with a checkpoint, or `embedded` for the model that ships with the package."""
    revision: Optional[str] = None  # noqa: UP045
    """Commit or tag on the hub; None takes the newest."""
    dtype: str = choice("auto", "float32", "float16", "bfloat16")
    attention: str = choice("sdpa", "eager", "flash_attention_2")
    """The attention backend, the same for every arm."""
    device_map: Optional[str] = None  # noqa: UP045
    """`auto` spreads the weights over the devices; None leaves the model on the Trainer's device."""
    weights: str = choice("pretrained", "random")
    """`random` builds the architecture without its checkpoint, for timings and tests."""
    layers: Optional[int] = at_least(1, None)  # noqa: UP045
    """Keep only the first decoder layers; None keeps all."""
    trust_remote_code: bool = False
    batch_size: int = at_least(1, 8)
    """Samples per batch."""
    n_visual: Optional[int] = at_least(1, None)  # noqa: UP045
    """Visual tokens of an image; None where it depends on the image."""
    budgets: list[Any] = field(default_factory=list)
    """The budgets that an experiment takes on this model: counts, keep ratios, or percentages as text."""
    default_tasks: list[str] = field(default_factory=list)
    """The tasks that an experiment takes on this model."""
    default_limit: Optional[int] = at_least(1, None)  # noqa: UP045
    """Samples per task; None takes all."""


@dataclass
class ArmConfig:
    """One row of an experiment file's `arms`; it expands over the budgets and the seeds."""

    selector: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the selector; what is not given keeps the selector's default."""
    label: Optional[str] = None  # noqa: UP045
    """What tables call it; None names it after the selector and its options."""
    budgets: Optional[list[Any]] = None  # noqa: UP045
    """Budgets of this arm alone; None takes the experiment's."""
    seeds: int = at_least(1, 1)
    """How often a stochastic selector is repeated, each time with its own draws."""


@dataclass
class DataConfig:
    """Where samples come from. Files: `configs/data/`."""

    root: Optional[str] = None  # noqa: UP045
    """Folder with benchmark files; None takes the hub's cache (the embedded tasks need neither)."""
    workers: int = at_least(0, 0)
    """DataLoader processes per rank; 0 loads in the process itself."""


@dataclass
class TrainerConfig:
    """What Lightning's Trainer is told. Files: `configs/trainer/`."""

    accelerator: str = "auto"
    devices: int = at_least(1, 1)
    """Processes per node."""
    num_nodes: int = at_least(1, 1)
    strategy: str = "auto"
    progress_bar: bool = True


@dataclass
class CacheConfig:
    """What is computed once and kept between runs."""

    features: Optional[str] = None  # noqa: UP045
    """Folder for the output of the vision tower, shared by runs and processes; None computes it every time."""
    limit_gb: float = field(default=50.0, metadata={"minimum": 0.001})
    """Gigabytes that the folder may grow to; what was not used longest goes first."""


@dataclass
class LoggerConfig:
    """Where results go besides the run folder. Files: `configs/logger/`."""

    name: str = choice("wandb", "none")
    mode: str = choice("auto", "online", "offline")
    """`auto` is online where a W&B key is found and offline elsewhere."""
    project: str = "zoo_exp"
    entity: Optional[str] = None  # noqa: UP045
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """Everything that one run is made of: the shape of `configs/config.yaml` and of every experiment file."""

    name: str = "custom"
    """Name of the experiment, and of its folder under `out`."""
    question: str = ""
    """What the experiment asks, in one sentence."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tasks: list[str] = field(default_factory=list)
    arms: list[ArmConfig] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    """Budgets of every arm that names none of its own."""
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = at_least(0, 0)
    limit: Optional[int] = at_least(1, None)  # noqa: UP045
    """The first N samples of each task; None takes all."""
    out: str = "runs"
    """Folder that run folders are made in."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """Axes that `-m` runs over when the command line names none: override key -> list of values."""


def violations(config: Any, prefix: str = "") -> Iterator[str]:
    """What the fields of `config` say that their choices and bounds forbid, as sentences."""
    for item in fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        choices, minimum = item.metadata.get("choices"), item.metadata.get("minimum")
        if is_dataclass(value):
            yield from violations(value, f"{key}.")
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for number, entry in enumerate(value):
                yield from violations(entry, f"{key}[{number}].")
        elif choices and value not in choices:
            yield f"{key}={value}: allowed are {', '.join(choices)}"
        elif minimum is not None and value is not None and value < minimum:
            yield f"{key}={value}: it must be at least {minimum}"
