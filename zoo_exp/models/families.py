"""Model families by the `model_type` in a checkpoint's config.json: one file and one line each."""

from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError, UnknownNameError
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
    """Check that a model type has an adapter or fits the generic one.

    Raises:
        InvalidValueError: it says what the model type is.
    """
    if model_type not in FAMILIES:
        from zoo_exp.models.generic_support import check_type

        check_type(model_type)


def adapter_class(model_type: str) -> "type[VLMAdapter]":
    """The adapter of a model type; types without an adapter of their own get the generic one.

    Raises:
        InvalidValueError: the generic adapter cannot serve the type.
    """
    check_family(model_type)
    found: type[VLMAdapter] = FAMILIES.load(model_type)
    return found


def adapter_for(model: Any, processor: Any = None) -> "VLMAdapter":
    """The adapter of a Hugging Face model.

    Args:
        model: a model with a language-model head.
        processor: its processor, if there is one; selectors that read the question's words use it.

    Raises:
        InvalidValueError: a model without its language-model head, or one that cannot be pruned.
    """
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", type(model).__name__))
    adapter = adapter_class(model_type)
    if model_type in FAMILIES and getattr(getattr(model, "model", None), "language_model", None) is None:
        raise InvalidValueError(
            f"{type(model).__name__} is only a part of a model: give the one that has generate, such as "
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
