"""The schema of a configuration: one dataclass per group, with the choices and bounds of each field."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING

LARGEST = 2**31 - 1
"""Upper bound of whole numbers: what SLURM, torch and Arrow all accept."""
MAX_NAME_BYTES = 120
LLAVA_CODE = "llava_code"
"""The variant of prompts for LLaVA's own code: all images come first."""


def choice(default: str, *others: str) -> Any:
    """A field that takes `default` or one of `others`."""
    return field(default=default, metadata={"choices": (default, *others)})


def at_least(minimum: int, default: Any) -> Any:
    """A whole number between `minimum` and `LARGEST`, or None where the type allows it."""
    return field(default=default, metadata={"minimum": minimum, "maximum": LARGEST})


@dataclass
class ModelConfig:
    """A checkpoint and how it is loaded. Files: `configs/model/`."""

    name: str = MISSING
    """Name of the configuration file; results name the model by it."""
    family: str = MISSING
    """The model family, which selects the adapter: `model_type` in the checkpoint's config.json; `auto` reads it."""
    path: str = MISSING
    """A hub id, a local checkpoint, or the name of a model inside the package, such as `embedded`."""
    revision: str | None = None
    """Commit or tag on the hub; None means the newest."""
    dtype: str = choice("auto", "float32", "float16", "bfloat16")
    attention: str = choice("sdpa", "eager", "flash_attention_2")
    """The attention backend, the same for every arm."""
    device_map: str | None = None
    """`auto` distributes the weights over the devices; None keeps the model on the Trainer's device."""
    weights: str = choice("pretrained", "random")
    """`random` builds the architecture with random weights, for timings and tests."""
    layers: int | None = at_least(1, None)
    """Number of decoder layers to keep, from the first; None keeps all."""
    trust_remote_code: bool = False
    checkpoint: str | None = None
    """Hub id of the published checkpoint that a local `path` holds; it allows published numbers beside the results."""
    min_pixels: int | None = at_least(1, None)
    """Qwen2.5-VL: an image with fewer pixels is enlarged to that many; None takes the checkpoint's own."""
    max_pixels: int | None = at_least(1, None)
    """Qwen2.5-VL: an image with more pixels is reduced to that many; None takes the checkpoint's own."""
    protocol: str = choice("hf", "llava")
    """`hf`: the checkpoint's processor and chat template. `llava`: LLaVA's own code, as lmms-eval's `llava` runs it:
    images padded to a square (LLaVA-1.5) and Vicuna's conversation with its system sentence."""
    clip: str | None = None
    """A folder or hub id with the full CLIP that the vision encoder was taken from, for `cdpruner` with
    `relevance=clip`; None where no arm needs it."""
    prompts: str | None = None
    """`embedded` asks bare questions and options, as the embedded models were trained on; None takes the
    checkpoint's flag `zoo_exp_prompts`, or else the family's prompts."""
    batch_size: int = at_least(1, 8)
    """Samples per batch."""
    n_visual: int | None = at_least(1, None)
    """Visual tokens per image; None if the number depends on the image."""
    budgets: list[Any] = field(default_factory=list)
    """Default budgets of experiments on this model: counts, keep ratios, or percentages as text."""
    image_budgets: list[Any] = field(default_factory=list)
    """The same budgets as counts per image over all of its tiles, for arms that do not split them by tile."""
    zoo: dict[str, Any] = field(default_factory=dict)
    """Options that ZOO's arms take on this model unless they give them: the protocol that the paper states for it."""
    default_tasks: list[str] = field(default_factory=list)
    """Default tasks of experiments on this model."""
    default_limit: int | None = at_least(1, None)
    """Default `limit` of experiments on this model; None means all units."""

    @property
    def prompt_family(self) -> str:
        """Which variant of a task's prompt the model gets: `prompts`, the checkpoint's own flag, or the family's."""
        from zoo_exp.embedded.shipped import prompts_of

        own = LLAVA_CODE if self.protocol == "llava" else self.family
        return self.prompts or prompts_of(self.path) or own


@dataclass
class ArmConfig:
    """One entry of an experiment file's `arms`; it expands over budgets and seeds."""

    selector: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the selector; options that are not given keep their defaults."""
    label: str | None = None
    """Label in tables; None builds one from the selector and its options."""
    budgets: list[Any] | None = None
    """Budgets of this arm only; None means the experiment's."""
    smallest: float | None = field(default=None, metadata={"minimum": 0, "maximum": 1})
    """Smallest share of the visual tokens: smaller budgets leave the arm out, as its method does not define them."""
    without: dict[str, str] = field(default_factory=dict)
    """Model family -> why this arm is left out on it, such as a method without a released schedule for its images."""
    seeds: int = at_least(1, 1)
    """Number of repetitions of a stochastic selector, each with its own random draws."""
    positions: str | None = None
    """`contiguous` renumbers the kept tokens, `original` keeps their positions; None means the model family's
    default. For input selectors; layer selectors have an option of that name."""


@dataclass
class ClaimConfig:
    """One entry of an experiment file's `claims`: a row that is claimed to retain more than another."""

    claim: str = MISSING
    """The claim, in one sentence."""
    arm: str = MISSING
    """Row of the table that is claimed to be better, without its budget: `zoo multiply`."""
    against: str = MISSING
    """Row that it is compared with at every budget that both have."""


@dataclass
class DataConfig:
    """The source of the samples. Files: `configs/data/`."""

    root: str | None = None
    """Folder with benchmark files; None means the hub or its cache (embedded tasks need neither)."""
    workers: int = at_least(0, 0)
    """DataLoader workers per rank; 0 loads samples in the main process."""


@dataclass
class TrainerConfig:
    """Options of Lightning's Trainer. Files: `configs/trainer/`."""

    accelerator: str = choice("auto", "cpu", "cuda", "gpu", "mps")
    devices: int = at_least(1, 1)
    """Processes per node."""
    num_nodes: int = at_least(1, 1)
    strategy: str = choice("auto", "ddp")
    threads: int | None = at_least(1, None)
    """CPU threads of each process; None divides the cores among them, or uses OMP_NUM_THREADS where it is set."""


@dataclass
class EngineConfig:
    """What generates the responses: `transformers` in this process, or vLLM. Files: `configs/engine/`."""

    name: str = choice("hf", "vllm")
    via: str = choice("auto", "image_embeds", "prompt_embeds")
    """How a pruned prompt reaches vLLM; `auto` takes the way that carries the family's positions."""
    tensor_parallel: int = at_least(1, 1)
    """GPUs that vLLM splits the model over."""
    max_model_len: int | None = at_least(1, None)
    """Longest prompt with its response, in tokens; None takes the checkpoint's own."""
    gpu_memory: float = field(default=0.6, metadata={"minimum": 0.01, "maximum": 1.0})
    """Share of the GPU's memory that vLLM takes; the vision encoder of `transformers` needs the rest."""
    url: str | None = None
    """A running vLLM server that is asked over HTTP instead, such as http://127.0.0.1:8000; None starts vLLM here."""
    arms_per_call: int = at_least(1, 1)
    """Arms of one budget that `transformers` answers in one call: faster for short prompts and small batches, without
    times per arm. A call never has more tokens than the unpruned batch."""
    version: str | None = None
    """Version of vLLM; None asks the installed package, or the server. It identifies the records."""


@dataclass
class CacheConfig:
    """The cache of vision features, which runs share."""

    features: str | None = None
    """Folder for the output of the vision encoder, shared by runs and processes; None switches the cache off."""
    limit_gb: float = field(default=50.0, metadata={"minimum": 0.001, "maximum": 1e6})
    """Maximum size of the folder in gigabytes; the least recently used entries are evicted first."""


@dataclass
class LoggerConfig:
    """Logging besides the run folder. Files: `configs/logger/`."""

    name: str = choice("wandb", "none")
    mode: str = choice("auto", "online", "offline")
    """`auto` is online if a W&B key is found and offline otherwise."""
    project: str = "zoo_exp"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    media_mb: float = field(default=20.0, metadata={"minimum": 0, "maximum": 1e6})
    """Megabytes that the W&B files of a run folder may take: images are left out beyond."""


@dataclass
class RunConfig:
    """The configuration of a run: the schema of `configs/config.yaml` and of every experiment file."""

    name: str = "custom"
    """Name of the experiment and of its folder under `out`: one path component."""
    question: str = ""
    """The question that the experiment answers, in one sentence."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tasks: list[str] = field(default_factory=list)
    arms: list[ArmConfig] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    """Budgets of every arm without budgets of its own."""
    claims: list[ClaimConfig] = field(default_factory=list)
    """Pairs of rows whose difference the report tests at every budget, such as a paper's claims."""
    split: str | None = None
    """`validation` or `confirm`: other scenes than the tables' own, for tasks that have such splits."""
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    seed: int = at_least(0, 0)
    limit: int | None = at_least(1, None)
    """First N units of each task (questions, MME pairs, MMBench groups); None means all."""
    out: str = "runs"
    """Parent folder of the run folders."""
    fresh: bool = False
    """Start anew: set recorded answers aside and take none from earlier runs."""
    sweep: dict[str, Any] = field(default_factory=dict)
    """Axes of `-m` unless the command line gives some: override key -> list of values."""


def violations(config: Any, prefix: str = "") -> Iterator[str]:
    """Violations of the choices and bounds of the fields of `config`, one sentence each."""
    if isinstance(config, RunConfig):
        yield from _bad_places(config)
    for item in fields(config):
        value, key = getattr(config, item.name), f"{prefix}{item.name}"
        choices, minimum = item.metadata.get("choices"), item.metadata.get("minimum")
        maximum = item.metadata.get("maximum", math.inf)
        if is_dataclass(value):
            yield from violations(value, f"{key}.")
        elif isinstance(value, list) and value and is_dataclass(value[0]):
            for number, entry in enumerate(value):
                yield from violations(entry, f"{key}[{number}].")
        elif choices and value not in choices:
            yield f"{key}={value}: allowed are {', '.join(choices)}"
        elif minimum is not None and value is not None and not minimum <= value <= maximum:
            bounds = f"at least {minimum}" if maximum == math.inf else f"between {minimum} and {maximum}"
            yield f"{key}={value}: it must be {bounds}"


def _bad_places(config: RunConfig) -> Iterator[str]:
    """A `name` that is not one path component, or an empty `out`."""
    name = config.name
    printable = name.isprintable() and not set(name) & set("/\\")
    if not printable or name.strip() in ("", ".", "..") or len(name.encode()) > MAX_NAME_BYTES:
        yield (
            f"name={name!r}: it must be a folder name, without slashes and control characters and of at most "
            f"{MAX_NAME_BYTES} bytes; the parent folder is out=DIR"
        )
    if not config.out.strip() or "\0" in config.out:
        yield f"out={config.out!r}: give a folder, such as out=runs"
