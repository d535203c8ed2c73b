"""`ServerGenerator`: a running vLLM server decodes pruned prompts, sent as embeddings over HTTP.

Requests of a batch are sent together, so that the server batches them. The server must run with
`--enable-prompt-embeds` (docs/vllm.md).
"""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from zoo_exp.config.engines import (
    LARGEST_REPLY,
    check_version,
    get_json,
    headers,
    opener,
    server_url,
    unreachable,
    version_of_server,
)
from zoo_exp.errors import ZooExpError
from zoo_exp.models import routes
from zoo_exp.models.generators import OnTokens
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.layer.base import LayerSelector
from zoo_exp.serving.vllm_engine import Requests, longest_of

TOGETHER = 32
"""Requests that are sent at the same time."""
PATIENCE = 600.0
"""Seconds to wait for a response, or for its next token."""


class ServerGenerator:
    """Generates with a vLLM server; several threads may call it at the same time.

    Args:
        loaded: the model whose vision encoder and selectors make the prompts; its decoder is not used.
        url: address of the server.
        path: folder or hub id of the checkpoint, which the server must have loaded.
        via: `auto` or `prompt_embeds`.

    Raises:
        ZooExpError: no server, a server of another version, or with another model.
    """

    stages = False

    def __init__(self, loaded: LoadedModel, url: str, path: str, via: str = "auto") -> None:
        self.url = server_url(url)
        version = version_of_server(self.url)
        check_version(version)
        self.name = f"vllm {version}"
        self.model, longest = model_of(get_json(self.url, "/v1/models"), self.url, path)
        way = routes.way_of(loaded.adapter.family_name, via, served=True)
        self.requests = Requests(loaded, way, longest or longest_of(loaded.model.config, None))

    def check(self, selector: Selector | LayerSelector, positions: str) -> None:
        """See `Generator.check`."""
        self.requests.check(selector, positions)

    def generate(
        self,
        prompt: PrunedPrompt,
        images: Sequence[Sequence[int]],
        names: Sequence[str],
        *,
        on_tokens: OnTokens | None = None,
        **options: Any,
    ) -> Tensor:
        """See `Generator.generate`."""
        requests, sampling = self.requests.made(prompt, images, names, options)

        def answer(place: int) -> list[int]:
            return self._answer(place, requests[place], sampling, on_tokens)

        with ThreadPoolExecutor(max(1, min(TOGETHER, len(requests)))) as pool:
            found = list(pool.map(answer, range(len(requests))))
        return self.requests.padded(found, names)

    def close(self) -> None:
        """The server goes on; there is nothing to release."""

    def _answer(
        self,
        place: int,
        request: Mapping[str, Tensor],
        sampling: Mapping[str, Any],
        on_tokens: OnTokens | None,
    ) -> list[int]:
        """The new ids of one request."""
        body = {
            **sampling,
            "model": self.model,
            "prompt": "",
            "prompt_embeds": encoded(request["prompt_embeds"]),
            "return_token_ids": True,
            # In a stream, vLLM 0.32 repeats the last token of a prompt of embeddings.
            "stream": False,
        }
        found = ids_of(self._reply(body), self.url)
        if found and on_tokens is not None:
            on_tokens(place, found)
        return found

    def _reply(self, body: Mapping[str, Any]) -> Any:
        """What the server replies.

        Raises:
            ZooExpError: no server, a refusal, or an answer that is not vLLM's.
        """
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", data, headers())
        try:
            with opener().open(request, timeout=PATIENCE) as reply:
                return json.loads(reply.read(LARGEST_REPLY))
        except urllib.error.HTTPError as error:
            raise ZooExpError(
                f"engine.url={self.url}: refused ({error.code}): {_said(error)}. The server needs "
                "--enable-prompt-embeds; its key is read from VLLM_API_KEY"
            ) from error
        except (OSError, HTTPException) as error:
            raise unreachable(self.url, error) from error
        except ValueError as error:
            raise ZooExpError(
                f"engine.url={self.url}: the reply is not JSON; is it vLLM's server?"
            ) from error


def encoded(embeds: Tensor) -> str:
    """Embeddings [L, D] as base64 of `torch.save`, as vLLM's completions take them."""
    buffer = io.BytesIO()
    torch.save(embeds.clone(), buffer)  # a view would be saved with the whole storage
    return base64.b64encode(buffer.getvalue()).decode()


def ids_of(reply: Any, url: str) -> list[int]:
    """The token ids in a reply.

    Raises:
        ZooExpError: the server reports an error, or gives no ids.
    """
    if isinstance(reply, dict) and reply.get("error"):
        raise ZooExpError(f"engine.url={url}: {' '.join(str(reply['error']).split())[:300]}")
    try:
        choices = reply["choices"]
        ids = [] if not choices else choices[0]["token_ids"] or []
        if all(type(token) is int and token >= 0 for token in ids):
            return list(ids)
    except (TypeError, LookupError):
        pass
    raise ZooExpError(f"engine.url={url}: the reply has no token ids; is it vLLM's server?")


def model_of(listing: Any, url: str, path: str) -> tuple[str, int | None]:
    """Name and longest prompt of the model that a server has loaded.

    Raises:
        ZooExpError: the listing is not vLLM's, or the server has another checkpoint.
    """
    try:
        first = listing["data"][0]
        name, root, longest = (
            str(first["id"]),
            str(first.get("root") or first["id"]),
            first.get("max_model_len"),
        )
    except (TypeError, LookupError, AttributeError) as error:
        raise ZooExpError(f"engine.url={url}: the server lists no model; is it vLLM's?") from error
    wanted = PurePosixPath(path.rstrip("/")).name
    if PurePosixPath(root.rstrip("/")).name != wanted:
        raise ZooExpError(f"engine.url={url}: the server has {root[:200]}, and the experiment asks {wanted}")
    return name, longest if isinstance(longest, int) and longest > 0 else None


def _said(error: urllib.error.HTTPError) -> str:
    """The message of a refusal, in one line."""
    text = error.read(65536).decode(errors="replace")
    try:
        found = json.loads(text)
        found = found.get("error", found) if isinstance(found, dict) else found
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except ValueError:
        pass
    return " ".join(text.split())[:300] or str(error.reason)
