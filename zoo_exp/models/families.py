"""Model families by the `model_type` in a checkpoint's config.json: one file and one line each."""

from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.models.generic_support import check_type, vision_language_types
from zoo_exp.registry import Registry

if TYPE_CHECKING:
    from zoo_exp.models.base import VLMAdapter

FAMILIES: Registry[Any] = Registry(
    "model type",
    "zoo_exp.families",
    {
        "llava": "zoo_exp.models.llava:LlavaAdapter",
        "llava_next": "zoo_exp.models.llava_next:LlavaNextAdapter",
        "qwen2_5_vl": "zoo_exp.models.qwen2_5_vl:QwenAdapter",
    },
    "It is the value of model_type in config.json.",
    fallback="zoo_exp.models.generic:GenericAdapter",
)


def check_family(model_type: str) -> None:
    """Refuse a model type that cannot be pruned; imports `transformers` only for types without an adapter.

    Raises:
        InvalidValueError: a type of `transformers` that cannot be pruned.
        UnknownNameError: no such type.
    """
    if model_type not in FAMILIES:
        check_type(model_type)


def adapter_class(model_type: str) -> "type[VLMAdapter]":
    """The adapter of a model type: its own, or `GenericAdapter` for every other vision-language type.

    Raises:
        InvalidValueError: a model type that cannot be pruned; the message says why.
    """
    check_family(model_type)
    found: type[VLMAdapter] = FAMILIES.load(model_type)
    return found


def model_class_name(model_type: str) -> str:
    """Name of the class in `transformers` that has the language-model head."""
    return adapter_class(model_type).model_class or vision_language_types()[model_type]


def adapter_for(model: Any, processor: Any = None) -> "VLMAdapter":
    """The adapter of a Hugging Face model.

    Args:
        model: a model with a language-model head.
        processor: its processor, if there is one; selectors that read the question's words use it.

    Raises:
        InvalidValueError: the model has no language-model head, or cannot be pruned.
    """
    config = getattr(model, "config", None)
    adapter = adapter_class(str(getattr(config, "model_type", type(model).__name__)))
    if adapter.family and getattr(getattr(model, "model", None), "language_model", None) is None:
        raise InvalidValueError(
            f"{type(model).__name__} is only a part of a model: give the model with generate, such as "
            "LlavaForConditionalGeneration"
        )
    return adapter(model, processor)


def known_architectures() -> "dict[str, type[VLMAdapter]]":
    """Hub ids whose architecture is known without a download -> adapter of their family."""
    adapters = map(adapter_class, FAMILIES.names())
    return {hub_id: adapter for adapter in adapters for hub_id in adapter.ARCHITECTURES}


def architecture(name: str) -> Any:
    """A fresh `transformers` configuration of a known checkpoint, for random weights without a download.

    Args:
        name: hub id.

    Raises:
        UnknownNameError: no family knows it.
    """
    known = known_architectures()
    if name not in known:
        raise UnknownNameError("architecture", name, known)
    return known[name].architecture(name)
