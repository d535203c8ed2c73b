"""Values of config.json that no model can have, refused before anything is built.

`transformers` fills in its own defaults for some of them, and builds a model of billions of parameters before it finds
that others do not work: each is one line instead.
"""

from collections.abc import Mapping
from typing import Any

from zoo_exp.errors import InvalidValueError

OWN = ("llava", "llava_next", "qwen2_5_vl")
"""Model types with an adapter of their own; other types may have values of their own kinds."""
LARGEST = 2**26
"""Above every size of a real model; larger ones only fill the memory."""
SIZES = frozenset(
    [
        *(
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
        ),
        *(
            "vocab_size",
            "max_position_embeddings",
            "head_dim",
            "image_size",
            "patch_size",
            "num_channels",
            "in_channels",
        ),
        *("in_chans", "projection_dim", "depth", "num_heads", "out_hidden_size", "spatial_merge_size"),
        *("temporal_patch_size", "window_size", "image_seq_length"),
    ]
)
"""Whole numbers from 1."""
MAY_BE_NULL = frozenset(["num_key_value_heads", "head_dim", "image_seq_length", "window_size"])
PARTS = ("text_config", "vision_config")
STRATEGIES = ("default", "full")


def check_values(raw: Mapping[str, Any], name: str) -> None:
    """Refuse values of the wrong kind or out of range.

    Args:
        raw: the content of config.json.
        name: of the model, for the error.

    Raises:
        InvalidValueError: the first such value, with what is allowed.
    """
    own = raw.get("model_type") in OWN
    for part in PARTS:
        if part in raw and not isinstance(raw[part], dict):
            raise _wrong(name, part, raw[part], "an object")
    for above, settings in [("", raw), *((f"{part}.", raw.get(part) or {}) for part in PARTS)]:
        for key, value in settings.items():
            if key in SIZES:
                _check_size(f"{above}{key}", key, value, own, name)
            elif key in ("hidden_act", "projector_hidden_act") and own:
                from transformers.activations import ACT2FN

                if not isinstance(value, str) or value not in ACT2FN:
                    raise _wrong(
                        name, f"{above}{key}", value, "the name of an activation such as gelu or silu"
                    )
        _check_heads(above, settings, name)
    if own:
        _check_family(raw, name)


def _check_size(place: str, key: str, value: Any, own: bool, name: str) -> None:
    if value is None and (key in MAY_BE_NULL or not own):
        return
    values = value if isinstance(value, list) and value and not own else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int) or not 1 <= one <= LARGEST:
            raise _wrong(name, place, value, f"a whole number from 1 to {LARGEST}")


def _check_heads(above: str, settings: Mapping[str, Any], name: str) -> None:
    """Heads share the width evenly, and key-value heads the heads."""
    width, heads = (
        settings.get("hidden_size"),
        settings.get("num_attention_heads") or settings.get("num_heads"),
    )
    if not isinstance(width, int) or not isinstance(heads, int):
        return
    if settings.get("head_dim") is None and width % heads:
        raise _wrong(name, f"{above}num_attention_heads", heads, f"a divisor of hidden_size {width}")
    groups = settings.get("num_key_value_heads")
    if isinstance(groups, int) and heads % groups:
        raise _wrong(name, f"{above}num_key_value_heads", groups, f"a divisor of num_attention_heads {heads}")


def _check_family(raw: Mapping[str, Any], name: str) -> None:
    vision, text = raw.get("vision_config") or {}, raw.get("text_config") or raw
    words = text.get("vocab_size", raw.get("vocab_size"))
    for key in ("image_token_id", "image_token_index"):
        if key in raw:
            value = raw[key]
            most = words - 1 if isinstance(words, int) else LARGEST
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise _wrong(name, key, value, f"the number of a token, 0 to {most}")
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy not in STRATEGIES:
        raise _wrong(name, "vision_feature_select_strategy", strategy, " or ".join(STRATEGIES))
    if "vision_feature_layer" in raw:
        given, layers = raw["vision_feature_layer"], vision.get("num_hidden_layers", 24)
        numbers = given if isinstance(given, list) and given else [given]
        if not all(
            isinstance(n, int) and not isinstance(n, bool) and -layers - 1 <= n <= layers for n in numbers
        ):
            allowed = f"{-layers - 1} to {layers}, as the vision encoder has {layers} layers"
            raise _wrong(name, "vision_feature_layer", given, allowed)
    if "image_grid_pinpoints" in raw:
        given, side = raw["image_grid_pinpoints"], vision.get("image_size", 336)
        if not isinstance(given, list) or not given or not all(_is_canvas(one, side) for one in given):
            raise _wrong(
                name,
                "image_grid_pinpoints",
                given,
                f"pairs of multiples of {side}, such as [[{side}, {2 * side}]]",
            )
    blocks, depth = vision.get("fullatt_block_indexes", []), vision.get("depth", 32)
    if not isinstance(blocks, list) or not all(isinstance(n, int) and 0 <= n < depth for n in blocks):
        raise _wrong(
            name,
            "vision_config.fullatt_block_indexes",
            blocks,
            f"a list of numbers of blocks, 0 to {depth - 1}",
        )


def _is_canvas(one: Any, side: int) -> bool:
    pair = isinstance(one, list) and len(one) == 2
    return pair and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 and n % side == 0 for n in one
    )


def _wrong(name: str, place: str, value: Any, allowed: str) -> InvalidValueError:
    return InvalidValueError(
        f"model '{name}': its config.json has {place}: {value!r:.80}; allowed is {allowed}. Get config.json again"
    )
