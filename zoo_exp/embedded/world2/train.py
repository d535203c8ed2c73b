"""Make, train, save and report a model of world 2."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zoo_exp.embedded.hub_names import save_model_files
from zoo_exp.embedded.shipped import PROMPTS_FLAG, WORLD_FLAG, shipped_folder
from zoo_exp.embedded.vocabulary import BOS, EOS, PAD
from zoo_exp.embedded.world2.builders import (
    insert_first,
    llava_processor,
    make_llava,
    make_next,
    next_processor,
)
from zoo_exp.embedded.world2.learners import Learner, LlavaLearner
from zoo_exp.embedded.world2.lexicon import TOKEN_ID_2
from zoo_exp.embedded.world2.place_codes import place_codes
from zoo_exp.embedded.world2.plan import WORLD, Plan
from zoo_exp.embedded.world2.qwen import QwenLearner
from zoo_exp.embedded.world2.qwen_model import make_qwen, qwen_processor, replace_decoder
from zoo_exp.embedded.world2.tiles import NextLearner
from zoo_exp.errors import InvalidValueError, MissingFileError

START_WORLD_1 = "world1"
# The smallest budget of each model's configuration: what the report's random arm keeps.
SMALLEST = {"embedded": 4, "embedded_next": 10, "embedded_qwen": 7}


def make_learner(plan: Plan, start: str | None = None, decoder: str | None = None) -> Learner:
    """The model of a plan with its training-only heads.

    Args:
        plan: the plan.
        start: `world1` (world 1's weights), `scratch`, or the folder of a saved model of world 2 (the same model,
            or for embedded_next and embedded_qwen a LLaVA whose weights or decoder are taken). None takes
            `world1` for embedded, and the shipped `embedded` for the others.
        decoder: folder of a LLaVA of world 2 whose decoder replaces that of the model to start from (embedded_qwen).
            Behind a LLaVA's decoder, the plan's layers in front are added.

    Raises:
        InvalidValueError: a model of another world, or of another kind.
        MissingFileError: no such folder.
    """
    if decoder is not None and plan.model != "embedded_qwen":
        raise InvalidValueError(f"decoder={decoder}: {plan.model} takes it from start=; leave decoder= out")
    if plan.front_layers and plan.model == "embedded":
        raise InvalidValueError(
            "front_layers: for embedded_next and embedded_qwen, behind the decoder of embedded"
        )
    learner = _learner(plan, start, decoder)
    if plan.front_layers and start not in (START_WORLD_1, "scratch"):
        teacher = load_start(decoder or start or str(shipped_folder("embedded")), plan.model)
        if teacher.config.model_type == "llava":  # otherwise the model has its layers in front already
            learner.codes = place_codes(teacher)
            for _ in range(plan.front_layers):
                insert_first(learner.model)
    return learner


def _learner(plan: Plan, start: str | None, decoder: str | None) -> Learner:
    if plan.model == "embedded":
        if start in (None, START_WORLD_1, "scratch"):
            return LlavaLearner(plan, make_llava(plan.seed, start or START_WORLD_1))
        return LlavaLearner(plan, load_start(str(start), plan.model))
    if start == "scratch" and plan.model == "embedded_qwen":
        return QwenLearner(plan, make_qwen(plan.seed))
    if start == START_WORLD_1:
        source: Any = make_llava(plan.seed)
    else:
        source = load_start(str(shipped_folder("embedded")) if start is None else start, plan.model)
    family = source.config.model_type
    if plan.model == "embedded_next":
        return NextLearner(plan, source if family == "llava_next" else make_next(source, plan.seed))
    if family == "qwen2_5_vl":
        if decoder is not None:
            llava = load_start(decoder, plan.model)
            if llava.config.model_type != "llava":
                raise InvalidValueError(f"decoder={decoder} is a {llava.config.model_type}: give a llava")
            source = replace_decoder(source, llava, plan.seed)
        return QwenLearner(plan, source)
    return QwenLearner(plan, make_qwen(plan.seed, source.model.language_model))


def load_start(folder: str, model: str) -> Any:
    """A saved model of world 2 in float32.

    Raises:
        InvalidValueError: a model of another world, or of a kind that `model` cannot start from.
        MissingFileError: no such folder.
    """
    import transformers

    config_file = Path(folder) / "config.json"
    if not config_file.is_file():
        raise MissingFileError(
            f"start={folder}: no config.json there; give the folder of a saved model, or scratch"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(f"start={folder}: config.json is no JSON ({error})") from error
    world = config.get(WORLD_FLAG)
    if world != WORLD:
        raise InvalidValueError(
            f"start={folder} holds a model of world {world or 1}; this training is on world {WORLD}: "
            "give a model of that world, or start=world1 for the weights of world 1 in the package"
        )
    classes = {
        "llava": transformers.LlavaForConditionalGeneration,
        "llava_next": transformers.LlavaNextForConditionalGeneration,
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    }
    own = {"embedded": "llava", "embedded_next": "llava_next", "embedded_qwen": "qwen2_5_vl"}[model]
    kind = config.get("model_type")
    if kind not in {own, "llava"}:
        raise InvalidValueError(f"start={folder} is a {kind}; {model} starts from a {own} or a llava")
    return classes[kind].from_pretrained(folder, dtype=torch.float32)


def processor_for(model: str, qwen_class: Any = None) -> Any:
    """The processor that is saved with a model.

    Args:
        model: embedded, embedded_next or embedded_qwen.
        qwen_class: Qwen's processor class; None leaves Qwen without a processor.
    """
    if model == "embedded_qwen":
        return None if qwen_class is None else qwen_processor(qwen_class)
    return llava_processor() if model == "embedded" else next_processor()


def save_model(
    learner: Learner, folder: Path, processor: Any = None, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Save a model for `from_pretrained`, with the flags that say its world and its prompts.

    Args:
        learner: the model.
        folder: where to.
        processor: saved beside it.
        dtype: number format of the weights.
    """
    model = copy.deepcopy(learner.model).to("cpu", dtype)
    setattr(model.config, WORLD_FLAG, WORLD)
    setattr(model.config, PROMPTS_FLAG, "embedded")
    model.generation_config.bos_token_id = TOKEN_ID_2[BOS]
    model.generation_config.eos_token_id = TOKEN_ID_2[EOS]
    model.generation_config.pad_token_id = TOKEN_ID_2[PAD]
    save_model_files(model, folder)
    if processor is not None:
        processor.save_pretrained(folder)


def report(
    learner: Learner, path: Path, rows: int = 500, advance: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Accuracy per family with all visual tokens, with none, and with a random few; saved as JSON.

    Args:
        learner: the trained model.
        path: the JSON file.
        rows: questions per family.
        advance: called with the number of questions done.
    """
    from zoo_exp.embedded.world2.scores import keep_all, keep_none, keep_random, measure, summary

    few = SMALLEST[learner.plan.model]
    arms = {"full": keep_all, "blind": keep_none, f"random@{few}": keep_random(few)}
    result = summary(measure(learner, arms, rows=rows, advance=advance))
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result
