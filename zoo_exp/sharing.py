"""What may leave the machine: text without the folders, the user and the host of whoever ran an experiment.

The HTML page, the Markdown report and W&B all show what this module gives.
"""

import getpass
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCAL = {"data": ("root",), "cache": ("features",), "model": ("path", "clip")}
"""Settings that may name folders of this machine, by node."""
PRIVATE = ("out", "logger")
"""Settings whose overrides concern nobody else."""
_ABSOLUTE = re.compile(r"(?<![\w.~/>:-])(?:~|/)(?:[\w.@+~-]+/)+[\w.@+~-]*")
"""An absolute path with at least one folder, where a word begins."""


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration without local paths: a folder is shown as the name of its setting.

    >>> shareable({"out": "/disk/me", "data": {"root": "/disk/me"}, "overrides": ["seed=1", "out=/disk/me"]})
    {'data': {'root': '<data.root>'}, 'overrides': ['seed=1']}
    """
    known = _known(config)
    shown: dict[str, Any] = {}
    for name, value in config.items():
        if name == "overrides":
            shown[name] = overrides(config)
        elif name != "out":
            shown[name] = _plain(value, known)
    return shown


def overrides(config: Mapping[str, Any]) -> list[str]:
    """The overrides of a configuration, as a reader elsewhere would type them: with their own folders."""
    known = _known(config)
    found = []
    for text in map(str, config.get("overrides") or []):
        key, equals, value = text.partition("=")
        name = key.lstrip("+~")
        if name.partition(".")[0] in PRIVATE:
            continue
        local = any(name == f"{node}.{field}" for node, fields in LOCAL.items() for field in fields)
        own = local and (not name.startswith("model.") or is_local(value.strip("'\"")))
        found.append(f"{key}=<{name}>" if equals and own else _text(text, known))
    return found


def text(value: object, config: Mapping[str, Any] | None = None) -> str:
    """A sentence without local paths.

    >>> text("no file /disk/me/data/x.png", {"data": {"root": "/disk/me/data"}})
    'no file <data.root>/x.png'
    """
    return _text(str(value), _known(config or {}))


def is_local(path: Any) -> bool:
    """Whether a checkpoint is a folder, as opposed to a hub id (`org/name`) or `embedded`."""
    return isinstance(path, str) and (path.startswith((".", "~", "/")) or path.count("/") > 1)


def _known(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Folders and their replacements, longest first."""
    found: dict[str, str] = {}
    for node, names in LOCAL.items():
        values = config.get(node)
        for name in names if isinstance(values, Mapping) else ():
            value = values.get(name)
            if isinstance(value, str) and (node != "model" or is_local(value)):
                for form in (value, os.path.abspath(os.path.expanduser(value))):
                    found.setdefault(form, f"<{node}.{name}>")
    for form in _forms(config.get("out")):
        found.setdefault(form, "<out>")
    for form in _forms(os.getcwd()):
        found.setdefault(form, ".")
    for form in _forms(str(Path.home())):
        found.setdefault(form, "~")
    # A single slash or dot is in every path.
    return sorted(
        ((form, shown) for form, shown in found.items() if len(form) > 2), key=lambda pair: -len(pair[0])
    )


def _forms(folder: object) -> list[str]:
    if not isinstance(folder, (str, Path)) or not str(folder):
        return []
    whole = os.path.abspath(os.path.expanduser(str(folder)))
    return [whole, os.path.realpath(whole)]


def _plain(value: Any, known: list[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner, known) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, known) for inner in value]
    return _text(value, known) if isinstance(value, str) else value


def _text(value: str, known: list[tuple[str, str]]) -> str:
    for form, shown in known:
        # A relative folder is replaced where it is the whole value; an absolute one wherever it begins a path.
        if value == form:
            return shown
        if form.startswith(("/", "~")):
            value = re.sub(rf"(?<![\w.-]){re.escape(form)}(?![\w-])", lambda _, s=shown: s, value)
    value = _ABSOLUTE.sub(lambda match: f"<path>/{Path(match.group()).name}", value)
    for name in _names():
        value = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "<host>", value)
    return value


def _names() -> list[str]:
    """The host's name, and `user@host`; a user's name alone may be any word."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without a user database
        user = ""
    names = [f"{user}@{host}"] if user else []
    ordinary = host.isalpha() or host == "localhost"  # a host that is called `test` must not change the word
    return names if ordinary else [*names, host]
