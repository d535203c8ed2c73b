"""The body of a chat-completion request: checked field by field, and read into a `ChatRequest`.

Fields that this server does not implement are refused unless they have the value that changes nothing. A field that is
ignored would let a client believe that it has an effect, and a misspelt `budget` would go unnoticed.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from zoo_exp.serving.http_errors import LONGEST, ApiError, invalid, short
from zoo_exp.serving.image_urls import ImageSource, image_source

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles of messages -> the role that chat templates know."""
MOST_MESSAGES = 256
MOST_STOPS, LONGEST_STOP = 8, 200
READ = {
    "model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options", "budget",
    "selector", "seed",
}  # fmt: skip
WITHOUT_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "top_p",
    "top_k",
}
"""Fields that change no response of this server: its decoding is greedy, and it stores nothing."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "temperature": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "skip_special_tokens": (True,),
}
"""Fields that are refused with any other value."""
WHY = {
    "temperature": "this server decodes greedily: send temperature=0, or leave it out",
    "n": "one choice per request: send n=1, or leave it out",
}
"""Field -> what its message adds."""
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class ChatRequest:
    """A request that is well-formed; whether its selector can prune its images is known after the vision pass.

    Attributes:
        model: name of the model, or None.
        messages: chat turns for the processor's template, see `models.chat.Chat`.
        images: encoded images or files, in the order of their places.
        max_tokens: most generated tokens, or None for the server's own limit.
        stop: texts that end the response.
        stream: send the response as it is generated.
        include_usage: send the usage at the end of a stream.
        budget: visual tokens of every image, or None for the server's.
        selector: name of the selector, or None for the server's.
        seed: of stochastic selectors, or None for the server's.
    """

    messages: list[dict[str, Any]]
    images: tuple[ImageSource, ...]
    model: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    budget: int | float | str | None = None
    selector: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        images: most images.
        max_tokens: most generated tokens.
        root: folder whose files may be named; None for none.
    """

    images: int = 8
    max_tokens: int = 1024
    root: Path | None = field(default=None)


def parse(body: bytes, limits: Limits) -> ChatRequest:
    """Read the body of a request.

    Args:
        body: JSON.
        limits: of this server.

    Raises:
        ApiError: 400, with the field that is wrong.
    """
    content = _object(body)
    _refuse_fields(content)
    messages, images = _messages(content.get("messages"), limits)
    options = content.get("stream_options")
    if options is not None and not (
        isinstance(options, dict) and set(options) <= {"include_usage", "include_obfuscation"}
    ):
        raise invalid(
            'stream_options: an object such as {"include_usage": true} is allowed', "stream_options"
        )
    return ChatRequest(
        messages,
        images,
        _text(content, "model"),
        _max_tokens(content, limits.max_tokens),
        _stop(content.get("stop")),
        _flag(content, "stream"),
        options is not None and _flag(options, "include_usage"),
        _budget(content.get("budget")),
        _text(content, "selector"),
        _whole(content, "seed", 0, 2**31 - 1),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise invalid("the body is nested too deeply", None, "invalid_json") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        reason = _SPACE.sub(" ", str(error))[:LONGEST]
        raise invalid(f"the body is not valid JSON: {reason}", None, "invalid_json") from None
    if not isinstance(content, dict):
        raise invalid(
            f'the body is a JSON {_kind(content)}: send an object, such as {{"messages": [...]}}',
            None,
            "invalid_json",
        )
    return content


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _refuse_fields(content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if name in READ or name in WITHOUT_EFFECT or value is None:
            continue
        if name not in NEUTRAL:
            close = get_close_matches(name, [*READ, *NEUTRAL], n=1, cutoff=0.6)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            raise invalid(
                f"unknown field '{short(name)}'.{guess} Fields: {', '.join(sorted(READ))}",
                short(name),
                "unknown_field",
            )
        if not any(type(value) is type(one) and value == one for one in _numbers(NEUTRAL[name])):
            allowed = " or ".join(json.dumps(one) for one in NEUTRAL[name])
            why = WHY.get(name, f"this server does not implement it: send {allowed}, or leave it out")
            raise invalid(f"{name}={short(value)}: {why}", name, "unsupported_value")


def _numbers(values: Sequence[Any]) -> list[Any]:
    """The values, whole numbers also as floats: a client sends 0 or 0.0."""
    return [*values, *(float(one) for one in values if type(one) is int)]


def _messages(given: Any, limits: Limits) -> tuple[list[dict[str, Any]], tuple[ImageSource, ...]]:
    if not isinstance(given, list) or not given:
        raise invalid(
            'messages: give a list of messages, such as [{"role": "user", "content": "What is in the image?"}]',
            "messages",
        )
    if len(given) > MOST_MESSAGES:
        raise invalid(f"messages: {len(given)}; at most {MOST_MESSAGES} are taken", "messages")
    turns: list[dict[str, Any]] = []
    images: list[ImageSource] = []
    for number, message in enumerate(given):
        place = f"messages[{number}]"
        if not isinstance(message, dict):
            raise invalid(f"{place}: an object with role and content is needed, got {_kind(message)}", place)
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise invalid(f"{place}.role={short(role)}: allowed are {', '.join(ROLES)}", f"{place}.role")
        for name in ("tool_calls", "function_call", "audio"):
            if message.get(name):
                raise invalid(f"{place}.{name}: this server has no tools and no sound", f"{place}.{name}")
        parts = _parts(message.get("content"), f"{place}.content", role, images, limits)
        turns.append({"role": ROLES[role], "content": parts})
    if turns[-1]["role"] != "user":
        raise invalid("the last message must be the user's: it is what the model answers", "messages")
    if not any(part["type"] == "image" or part["text"].strip() for part in turns[-1]["content"]):
        raise invalid("the last message is empty: give a question", "messages")
    return turns, tuple(images)


def _parts(
    content: Any, place: str, role: str, images: list[ImageSource], limits: Limits
) -> list[dict[str, str]]:
    """The content of a message for the chat template; its images are appended to `images`."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise invalid(f"{place}: a text, or a list of parts of type text and image_url, is needed", place)
    parts = []
    for number, part in enumerate(content):
        at = f"{place}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image_url" and role == "user":
            if len(images) >= limits.images:
                raise invalid(
                    f"{at}: at most {limits.images} images per request are taken", at, "too_many_images"
                )
            images.append(image_source(part.get("image_url"), f"{at}.image_url", limits.root))
            parts.append({"type": "image"})
        elif kind == "image_url":
            raise invalid(f"{at}: only messages of the user may have images, not {role}", at)
        else:
            shapes = '{"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}'
            raise invalid(f"{at}: a part is {shapes}, got type {short(kind)}", at)
    return parts


def _max_tokens(content: Mapping[str, Any], most: int) -> int | None:
    old, new = (_whole(content, name, 1, most) for name in ("max_tokens", "max_completion_tokens"))
    if old is not None and new is not None and old != new:
        raise invalid(f"max_tokens={old} and max_completion_tokens={new}: give one of them", "max_tokens")
    return new if old is None else old


def _stop(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    texts = [given] if isinstance(given, str) else given
    if (
        not isinstance(texts, list)
        or len(texts) > MOST_STOPS
        or not all(isinstance(text, str) and 0 < len(text) <= LONGEST_STOP for text in texts)
    ):
        raise invalid(
            f"stop: a text or a list of at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters is needed",
            "stop",
        )
    return tuple(texts)


def _budget(given: Any) -> int | float | str | None:
    if given is None:
        return None
    plain = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    if not plain and not (isinstance(given, str) and 0 < len(given) <= 40):
        raise invalid(
            f'budget={short(given)}: give a number of visual tokens (64) or a keep ratio (0.111 or "11.1%")',
            "budget",
        )
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    return given  # type: ignore[no-any-return]


def _whole(content: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise invalid(f"{name}={short(value)}: give a whole number from {low} to {high}", name)
    return value


def _text(content: Mapping[str, Any], name: str) -> str | None:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{name}={short(value)}: give a name", name)
    return value


def _flag(content: Mapping[str, Any], name: str) -> bool:
    value = content.get(name)
    if value not in (None, True, False) or type(value) in (int, float):
        raise invalid(f"{name}={short(value)}: give true or false", name)
    return bool(value)


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def wrong_model(given: str, name: str) -> ApiError:
    """A request for a model that this server does not have."""
    return ApiError(
        404, f"no model '{short(given)}' here: this server has '{name}'", "model_not_found", "model"
    )
