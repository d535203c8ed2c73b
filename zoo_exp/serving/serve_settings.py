"""The settings of `serve`, from the command line and the environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from zoo_exp.addresses import LOOPBACK, is_loopback, parse_port
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError

PORT = 8000
PREFIX = "serve."
KEY_VARIABLE = "ZOO_EXP_API_KEY"
"""Environment variable with the key; unlike the command line, other users of the machine cannot read it."""
SHORTEST_KEY = 8


def _number(default: int | None, low: int, high: int) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class ServeSettings:
    """How the server listens, and what a request may take.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        root: folder whose images requests may name.
        api_key: what requests must carry; None only on a loopback address.
        name: name of the model in requests; None for the configuration's.
        body_mb: most MiB of a request.
        images: most images of a request.
        max_tokens: most generated tokens, and their number where a request gives none.
        queue: most requests that wait.
        seconds: time limit of a request.
        batch: most requests that are answered at the same time; None for 1 with transformers, 16 with vLLM.
    """

    host: str = LOOPBACK
    port: int = PORT
    root: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    name: str | None = None
    body_mb: int = _number(32, 1, 1024)
    images: int = _number(8, 1, 64)
    max_tokens: int = _number(1024, 1, 2**20)
    queue: int = _number(32, 0, 10_000)
    seconds: int = _number(300, 1, 86_400)
    batch: int | None = _number(None, 1, 256)


def take_settings(texts: Sequence[str], environment: Mapping[str, str]) -> tuple[ServeSettings, list[str]]:
    """Split the settings of the server from the overrides of `run`.

    >>> take_settings(["serve.port=0", "budget=64"], {})[1]
    ['budget=64']

    Args:
        texts: overrides of the command line; `host=` and `port=` mean `serve.host=` and `serve.port=`, as in `explore`.
        environment: where the key is looked up unless `serve.api_key=` gives one.

    Raises:
        UnknownNameError: no such setting.
        InvalidValueError: a value that is not allowed, or no key for an address that others reach.
        MissingFileError: `serve.root` is no folder.
    """
    known = {item.name: item for item in fields(ServeSettings)}
    given: dict[str, Any] = {}
    rest = []
    for text in texts:
        key, equals, value = text.lstrip("+").partition("=")
        name = key.removeprefix(PREFIX)
        if not equals or (name == key and key not in ("host", "port")):
            rest.append(text)
        elif name not in known:
            raise UnknownNameError("setting of serve", name, known, f"Type {PREFIX}NAME=VALUE.")
        else:
            given[name] = _value(key, name, value, known[name].metadata)
    if "api_key" not in given and KEY_VARIABLE in environment:
        given["api_key"] = _key(KEY_VARIABLE, environment[KEY_VARIABLE])
    settings = ServeSettings(**given)
    if settings.api_key is None and not is_loopback(settings.host):
        raise InvalidValueError(
            f"host={settings.host}: others reach this address, so a key is needed: export {KEY_VARIABLE}=KEY, or leave "
            f"host out (the default, {LOOPBACK}, is reached from this machine only)"
        )
    return settings, rest


def _value(key: str, name: str, value: str, bounds: Mapping[str, int]) -> Any:
    if name == "port":
        return parse_port(value, PORT, key)
    if name == "api_key":
        return _key(key, value)
    if bounds:
        low, high = bounds["low"], bounds["high"]
        if not value.isdecimal() or len(value) > 9 or not low <= int(value) <= high:
            raise InvalidValueError(f"{key}={value}: give a whole number from {low} to {high}")
        return int(value)
    if not value.strip() or not value.isprintable():
        raise InvalidValueError(f"{key}={value!r}: give a value, or leave it out")
    if name != "root":
        return value
    root = Path(value).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise MissingFileError(f"{key}={value}: {what}; give the folder that has the images")
    return root.resolve()


def _key(source: str, value: str) -> str:
    """A key, without saying what was given."""
    if len(value) < SHORTEST_KEY or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidValueError(
            f"{source}: a key has at least {SHORTEST_KEY} characters of ASCII without blanks: "
            "python -c 'import secrets; print(secrets.token_urlsafe(24))' makes one"
        )
    return value
