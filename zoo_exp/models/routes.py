"""How pruned prompts of a model family reach vLLM, and why other families cannot."""

from collections.abc import Mapping
from dataclasses import dataclass

from zoo_exp.errors import InvalidValueError

IMAGE_EMBEDS, PROMPT_EMBEDS = "image_embeds", "prompt_embeds"
VIAS = ("auto", IMAGE_EMBEDS, PROMPT_EMBEDS)
"""`image_embeds`: token ids, and the embeddings of the kept visual tokens. `prompt_embeds`: the whole prompt as
embeddings, which vLLM counts as text, from position 0."""
BOTH = ("contiguous", "original")


@dataclass(frozen=True)
class Route:
    """What vLLM takes from one family.

    Attributes:
        auto: what `engine.via=auto` stands for.
        positions: way -> position policies that it carries.
        axes: whether positions have several axes, so that an unpruned image has no contiguous positions.
        default: positions of an arm that gives none.
    """

    auto: str
    positions: Mapping[str, tuple[str, ...]]
    axes: bool = False
    default: str = "contiguous"


ROUTES: Mapping[str, Route] = {
    "llava": Route(PROMPT_EMBEDS, {PROMPT_EMBEDS: ("contiguous",), IMAGE_EMBEDS: ("contiguous",)}),
    "llava_next": Route(PROMPT_EMBEDS, {PROMPT_EMBEDS: ("contiguous",)}),
    "qwen2_5_vl": Route(IMAGE_EMBEDS, {IMAGE_EMBEDS: BOTH, PROMPT_EMBEDS: ("contiguous",)}, True, "original"),
}
_REASONS = {
    "qwen2_vl": "its positions have three axes, and the plug-in has a class for Qwen2.5-VL only",
    "qwen3_vl": "its decoder reads features of several encoder layers, which embeddings of a prompt do not hold",
    "gemma3": "its image tokens attend to each other in both directions, which vLLM loses with embeddings",
    "gemma4": "its image tokens attend to each other in both directions, which vLLM loses with embeddings",
    "paligemma": "its prompt attends in both directions, which vLLM loses with embeddings",
}
_UNTRIED = "its responses were not compared with those of transformers"


def route_of(family: str) -> Route:
    """The route of a family.

    Raises:
        InvalidValueError: vLLM cannot answer its pruned prompts, or nobody has compared it; the message says why.
    """
    if family not in ROUTES:
        reason = _REASONS.get(family, _UNTRIED)
        raise InvalidValueError(
            f"engine=vllm does not take the model family {family}: {reason}. It takes {', '.join(ROUTES)}: type "
            "engine=hf"
        )
    return ROUTES[family]


def way_of(family: str, via: str, served: bool = False) -> str:
    """The way that `engine.via` stands for: `image_embeds` or `prompt_embeds`.

    Args:
        family: the model family.
        via: one of `VIAS`.
        served: whether a server is asked over HTTP, whose completions take `prompt_embeds` only.

    Raises:
        InvalidValueError: the family, or its server, does not have the way.
    """
    route = route_of(family)
    way = (PROMPT_EMBEDS if served else route.auto) if via == "auto" else via
    if way not in route.positions:
        raise InvalidValueError(
            f"engine.via={via}: the family {family} has {', '.join(route.positions)}; type engine.via=auto"
        )
    if served and way != PROMPT_EMBEDS:
        raise InvalidValueError(
            f"engine.via={via}: a server takes prompt_embeds only; leave engine.url out, or type engine.via=auto"
        )
    return way


def check_positions_of(family: str, way: str, positions: str, fixed: bool, name: str) -> None:
    """Refuse positions that a way does not carry.

    Args:
        family: the model family.
        way: from `way_of`.
        positions: `contiguous` or `original`.
        fixed: whether the arm has no choice of positions, as `full` and `blind`.
        name: of the arm, for the message.

    Raises:
        InvalidValueError: the message says what to type.
    """
    route = route_of(family)
    if fixed and route.axes and way == PROMPT_EMBEDS:
        raise InvalidValueError(
            f"{name}: {way} does not carry the positions of a whole image of {family}, nor the gap that it leaves: "
            "type engine.via=image_embeds (without engine.url), or leave the arm out"
        )
    if positions in route.positions[way]:
        return
    other = next((w for w, carried in route.positions.items() if positions in carried), None)
    if other is None:
        raise InvalidValueError(
            f"{name}: engine=vllm counts the positions of {family} from 0 to L - 1, so positions=original is not "
            "possible: type selector.positions=contiguous, or engine=hf"
        )
    raise InvalidValueError(
        f"{name}: {way} does not carry positions={positions}: type engine.via={other} (without engine.url), or "
        "selector.positions=contiguous"
    )
