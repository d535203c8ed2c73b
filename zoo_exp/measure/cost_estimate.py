"""Time and memory that the cells of an experiment will take: an estimate from the model's configuration.

Times of earlier runs of the same model on the same device (`earlier_times`) replace the estimate where they exist, and
correct it elsewhere. All formulas assume one image and a short text in each prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo_exp.config.experiment import Arm, Cell, Experiment
from zoo_exp.config.schema import ModelConfig
from zoo_exp.core.budget import Budget
from zoo_exp.embedded.shipped import is_shipped, shipped_folder
from zoo_exp.errors import ZooExpError
from zoo_exp.measure import earlier_times
from zoo_exp.measure.cost_model import CostModel, costs_of
from zoo_exp.measure.machine import Machine
from zoo_exp.models.families import architecture, known_architectures, model_class_name
from zoo_exp.models.loading import DTYPES, LoadedModel, keep_layers
from zoo_exp.tasks import get as get_task

TEXT_TOKENS = 60
"""Text of a prompt: the chat template and a question."""
NEW_TOKENS = 4
"""A short answer with its end-of-sequence token; every task asks for a word, a phrase or a letter."""
TYPICAL_PIXELS, PIXELS_PER_TOKEN = 640 * 480, 28 * 28
"""An image of COCO, and what one visual token of Qwen2.5-VL shows: for models that keep an image's shape."""
UNKNOWN_TOKENS = 1024
"""Visual tokens of an image where neither the configuration nor the pixels say how many."""
UTILISATION = 0.5
"""Share of the speed of a large matrix product that a model reaches."""
LAYER_SECONDS = 4e-4
"""Time of one decoder or encoder layer besides its products: launching its operations from Python."""
ENCODER_LAYERS = 24
RUNTIME_BYTES = 0.6 * 2**30
"""Libraries and the context of the device."""

Speed = tuple[float, float]


@dataclass(frozen=True)
class CellCost:
    """What one cell will take.

    Attributes:
        task: name of the task.
        questions: questions that lack an answer.
        answers: answers to generate.
        seconds: estimated time on all processes together.
        memory: estimated peak of a process, in bytes.
    """

    task: str
    questions: int
    answers: int
    seconds: float
    memory: float


@dataclass(frozen=True)
class Asked:
    """The missing answers of a cell.

    Attributes:
        cell: the cell.
        questions: questions that lack an answer of some arm.
        answers: arm id -> missing answers.
    """

    cell: Cell
    questions: int
    answers: Mapping[str, int]

    @classmethod
    def whole(cls, cell: Cell, questions: int) -> "Asked":
        """All answers of a cell."""
        return cls(cell, questions, {arm.id: questions for arm in cell.arms})


@dataclass(frozen=True)
class Estimate:
    """Costs by cell, and what they were computed from.

    Attributes:
        cells: one per cell with missing answers.
        basis: a phrase for the user, such as `from FLOPs at 0.9 TFLOP/s (cpu, float32)`.
    """

    cells: Sequence[CellCost]
    basis: str

    @property
    def seconds(self) -> float:
        """Time of all cells."""
        return sum(cell.seconds for cell in self.cells)

    @property
    def memory(self) -> float:
        """The largest peak."""
        return max((cell.memory for cell in self.cells), default=0.0)

    def lines(self) -> list[str]:
        """One line for all cells, and one per cell if there are several and they take minutes."""
        head = f"estimate, {self.basis}: {duration(self.seconds)}, {gibibytes(self.memory)} of memory"
        if len(self.cells) < 2 or self.seconds < 120:
            return [head]
        width = max(len(cell.task) for cell in self.cells)
        return [
            head,
            *(
                f"  {cell.task:<{width}} {cell.questions:>8} questions {cell.answers:>9} answers  "
                f"{duration(cell.seconds):>12}  {gibibytes(cell.memory)}"
                for cell in self.cells
            ),
        ]


class Estimator:
    """Seconds per answer and bytes per process of one model.

    Args:
        model: its configuration in this project.
        config: its `transformers` configuration.
        weights: bytes of its parameters.
        dtype: of its activations.
        machine: the device.
        n_visual: visual tokens of an image, where the loaded model knows them.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: Any,
        weights: float,
        dtype: torch.dtype,
        machine: Machine,
        n_visual: int | None = None,
    ) -> None:
        self.model, self.costs, self.machine, self.weights = model, CostModel(config), machine, weights
        self.n_visual = model.n_visual or n_visual or typical_tokens(model, config)
        self.width = torch.empty(0, dtype=dtype).element_size()
        self.vision: Any = getattr(config, "vision_config", None)

    def kept(self, arm: Arm) -> int:
        """Visual tokens of an arm, in the mean over layers."""
        if arm.selector == "blind":
            return 0
        return self.n_visual if arm.budget is None else kept_tokens(arm.budget, self.n_visual)

    def answer(self, arm: Arm) -> float:
        """Seconds of prefill and decoding of one answer of an arm."""
        length, batch = self.kept(arm) + TEXT_TOKENS, self.model.batch_size
        layers = int(self.costs.text.num_hidden_layers)
        prefill = self.costs.prefill(length) / self._flops + LAYER_SECONDS * layers / batch
        step = self.costs.decode(length, 2) / self._flops
        step = max(step, self.weights / self.machine.bandwidth / batch) + LAYER_SECONDS * layers / batch
        return prefill + (NEW_TOKENS - 1) * step

    def encoding(self) -> float:
        """Seconds of the vision pass of one question, which its arms share."""
        flops = self.costs.encoder(self.n_visual) + self.costs.projector(self.n_visual)
        return flops / self._flops + LAYER_SECONDS * ENCODER_LAYERS / self.model.batch_size

    def memory(self, new_tokens: int) -> float:
        """Peak bytes: parameters, keys and values of a batch of full prompts, and the activations of one layer.

        Args:
            new_tokens: largest length of a response.
        """
        text, batch = self.costs.text, self.model.batch_size
        length = self.n_visual + TEXT_TOKENS
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        cache = 2 * text.num_hidden_layers * heads * head * (length + new_tokens)
        decoder = length * (6 * text.hidden_size + 3 * text.intermediate_size) + 2 * text.vocab_size
        features = self.n_visual * text.hidden_size
        hidden = int(getattr(self.vision, "hidden_size", text.hidden_size))
        inner = int(getattr(self.vision, "intermediate_size", 4 * hidden))
        # A projector may merge four patches into a token.
        encoder = 4 * self.n_visual * (6 * hidden + 2 * inner)
        numbers = batch * (cache + features + max(decoder, encoder))
        return self.weights + numbers * self.width + RUNTIME_BYTES

    @property
    def _flops(self) -> float:
        return self.machine.flops * UTILISATION


def estimate(
    asked: Sequence[Asked],
    estimator: Estimator,
    measured: Mapping[tuple[str, str], Speed],
    processes: int = 1,
) -> Estimate:
    """The cost of the missing answers.

    Args:
        asked: the cells.
        estimator: of the model.
        measured: (task, arm id) -> seconds per answer and seconds of the vision pass per question, of earlier runs.
        processes: they share the questions.
    """
    known = {(one.cell.task, arm.id): arm for one in asked for arm in one.cell.arms}
    found = {key: speed for key, speed in measured.items() if key in known}
    # Arms that ran before tell how far the formula is off on this machine.
    formula = sum(estimator.answer(known[key]) for key in found)
    factor = sum(answer for answer, _ in found.values()) / formula if formula else 1.0
    cells = []
    for one in asked:
        task, arms = one.cell.task, one.cell.arms
        passes = [found[task, arm.id][1] for arm in arms if (task, arm.id) in found]
        seconds = one.questions * (max(passes) if passes else factor * estimator.encoding())
        for arm in arms:
            missing = one.answers.get(arm.id, 0)
            speed = found.get((task, arm.id))
            seconds += missing * (factor * estimator.answer(arm) if speed is None else speed[0])
        settings = get_task(task).generation
        memory = estimator.memory(settings.max_new_tokens or 128)
        total = sum(one.answers.values())
        if total:
            cells.append(CellCost(task, one.questions, total, seconds / processes, memory))
    machine = estimator.machine
    basis = f"from FLOPs at {machine.flops * UTILISATION / 1e12:.3g} TFLOP/s ({machine.name})"
    if found:
        part = (
            ""
            if len(found) == len(known)
            else f", which have {len(found)} of the {len(known)} arms of these tasks"
        )
        basis = f"from the times of earlier runs on this device{part}"
    return Estimate(cells, basis)


def of_experiment(
    experiment: Experiment,
    asked: Sequence[Asked],
    loaded: LoadedModel | None = None,
    device: torch.device | None = None,
) -> Estimate | None:
    """The cost of an experiment's missing answers; None without its configuration, or a formula for it.

    Args:
        experiment: the experiment.
        asked: its cells.
        loaded: the model, if it is loaded already.
        device: where it runs.
    """
    model, trainer = experiment.model, experiment.trainer
    if loaded is None:
        known = configured(model)
        if known is None:
            return None
        config, weights, dtype = known
        estimator = Estimator(model, config, weights, dtype, Machine.expected(weights, dtype))
    elif costs_of(loaded.model.config) is None:
        return None
    else:
        weights = float(sum(one.nbytes for one in loaded.model.parameters()))
        dtype = loaded.model.dtype
        machine = Machine.measured(device or torch.device("cpu"), dtype)
        estimator = Estimator(model, loaded.model.config, weights, dtype, machine, loaded.n_visual)
    measured = earlier_times.seconds(experiment.out, model, experiment.seed)
    return estimate(asked, estimator, measured, trainer.devices * trainer.num_nodes)


def kept_tokens(budget: Budget, n_visual: int) -> int:
    """Visual tokens that a budget keeps of an image of `n_visual`, all of them where it asks for more."""
    if budget.count is not None:
        return min(n_visual, budget.count * (max(1, n_visual // 576) if budget.per == "tile" else 1))
    return budget.resolve(n_visual)


def typical_tokens(model: ModelConfig, config: Any) -> int:
    """Visual tokens of an image of usual size where their number depends on the image."""
    if getattr(config, "model_type", "") != "qwen2_5_vl":
        return UNKNOWN_TOKENS
    pixels = min(max(TYPICAL_PIXELS, model.min_pixels or 0), model.max_pixels or TYPICAL_PIXELS)
    return max(1, pixels // PIXELS_PER_TOKEN)


def configured(model: ModelConfig) -> tuple[Any, float, torch.dtype] | None:
    """Configuration, bytes of the parameters, and dtype of a model that is not loaded; None where it is unknown here.

    Reads config.json of a folder or of the hub's cache; the known checkpoints need neither.
    """
    import transformers
    from transformers import AutoConfig

    path = str(shipped_folder(model.path)) if is_shipped(model.path) else model.path
    folder = Path(path).expanduser()
    try:
        if path in known_architectures():
            config = architecture(path)
        else:
            config = AutoConfig.from_pretrained(folder if folder.is_dir() else path, local_files_only=True)
        if model.layers is not None:
            keep_layers(config, model.layers)
        saved = getattr(config, "dtype", None) or torch.float32
        dtype = saved if model.dtype == "auto" else DTYPES[model.dtype]
        assert isinstance(dtype, torch.dtype)
        kind = getattr(transformers, model_class_name(config.model_type))
        with torch.device("meta"):  # no memory is taken
            empty = kind._from_config(config, dtype=dtype)
        CostModel(config)
        return config, float(sum(one.nbytes for one in empty.parameters())), dtype
    except (ZooExpError, OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.3), duration(75), duration(5400), duration(400000)
    ('under 1 min', '1.2 min', '1.5 h', '4.6 days')
    """
    if seconds < 60:
        return "under 1 min"
    for size, unit in ((60.0, "min"), (3600.0, "h"), (86400.0, "days")):
        if seconds < {"min": 3600, "h": 2 * 86400}.get(unit, float("inf")):
            return f"{seconds / size:.1f} {unit}"
    raise AssertionError


def gibibytes(size: float) -> str:
    """Bytes for people.

    >>> gibibytes(14 * 2**30)
    '14.0 GiB'
    """
    return f"{size / 2**30:.1f} GiB"
