"""Whether Weights & Biases (W&B) is online: only if the user chose so or has an API key."""

import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from zoo_exp.errors import UnknownNameError

MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class Mode:
    """A W&B mode: `name` is online, offline or disabled; `reason` says where it was set."""

    name: str
    reason: str

    @property
    def online(self) -> bool:
        """Whether data leaves the machine."""
        return self.name == "online"


def resolve_mode(hint: str = "auto") -> Mode:
    """Choose the mode from WANDB_MODE, then `hint` (the configuration), then the presence of an API key.

    Raises:
        UnknownNameError: unknown mode.
    """
    variable = os.environ.get("WANDB_MODE", "").strip().lower()
    variable = {"dryrun": "offline", "run": "online"}.get(variable, variable)
    for given, who in ((variable, "WANDB_MODE"), (hint, "the configuration")):
        if given and given not in MODES:
            raise UnknownNameError("W&B mode", given, MODES, hint=f"It is set by {who}.")
        if given and given != "auto":
            return Mode(given, f"set by {who}")
    source = _key_source()
    return Mode("online", f"API key in {source}") if source else Mode("offline", "no API key found")


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables temporarily; W&B reads some of them and leaves others behind."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _key_source() -> str | None:
    """The place of an API key; the key itself is never part of a message."""
    if os.environ.get("WANDB_API_KEY", "").strip():
        return "WANDB_API_KEY"
    path = Path(os.environ.get("NETRC", "") or Path.home() / ".netrc").expanduser()
    try:
        entries = netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError):
        return None
    base = os.environ.get("WANDB_BASE_URL", "")
    hosts = [urlsplit(base).netloc] if base else ["api.wandb.ai"]
    if not base:
        import wandb

        hosts.append(urlsplit(wandb.Settings().base_url).netloc)
    # `default` entries apply to any host and say nothing about W&B.
    return "netrc" if any(host in entries.hosts for host in hosts) else None
