"""Messages of OmegaConf and Hydra in one line; those on a value's type say what is allowed."""

import re
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ValidationError

from zoo_exp.config.schema import ArmConfig

_QUOTED = re.compile(r"Value '(.*)' (?:of type '|is not )|string: '(.*)'")
"""The value in OmegaConf's message on a type."""
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list, such as [A,B]",
    dict: "a mapping, such as {KEY: VALUE}",
}
_INSTEAD = {
    "budgets": "; one budget is budget=64, several are budget=[64,32]",
    "tasks": "; one task is task=NAME, several are task=[A,B]",
    "arms": "; one selector is selector=NAME, several are selector=[A,B]",
}
"""Key -> what is typed instead of it."""


def in_one_line(error: Exception, composed: DictConfig | None) -> str:
    """Hydra's or OmegaConf's message in one line: the key and its value, then what is allowed.

    Args:
        error: the exception.
        composed: the configuration, where it could be composed.
    """
    key, schema = getattr(error, "full_key", None), getattr(error, "object_type", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    text = " ".join(kept) or type(error).__name__
    name = str(getattr(error, "key", ""))
    if isinstance(error, ValidationError) and key and is_dataclass(schema) and name in get_type_hints(schema):
        kind = get_type_hints(schema)[name]
        found = _QUOTED.search(text)
        given = (found[1] or found[2]) if found else OmegaConf.select(composed or OmegaConf.create(), key)
        if schema is ArmConfig and "." not in key:  # OmegaConf names the place in an entry only
            key = f"selector.{key}"
        return f"{key}={given}: give {_words(kind)}{_INSTEAD.get(key, '')}"
    return f"{key}: {text}" if key and key not in text else text


def _words(kind: Any) -> str:
    """A field's type in words: `int | None` is "a whole number, or null"."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    words = [_KINDS.get(get_origin(one) or one, "another value") for one in kinds if one is not NoneType]
    return " or ".join([*words, *(["null"] if NoneType in kinds else [])])
