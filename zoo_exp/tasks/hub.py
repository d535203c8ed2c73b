"""Whether the hub answers at all: without a network its client tries again for half a minute before it says so."""

import os
import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies

ENDPOINT = "https://huggingface.co"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables in which a user says whether the hub is to be asked."""
SECONDS = 3.0
"""For a connection to one address of the hub."""


def go_offline_if_unreachable() -> str | None:
    """Look whether the hub takes a connection; if not, tell its client and all child processes to use the cache only.

    The client reads its variable when it is imported, so this comes before. Nothing is done where the user has said
    what to do, or where a proxy stands between.

    Returns:
        One sentence for the user if the hub cannot be reached, else None.
    """
    if "huggingface_hub" in sys.modules or any(name in os.environ for name in OFFLINE):
        return None
    endpoint = os.environ.get("HF_ENDPOINT") or ENDPOINT
    address = urlsplit(endpoint)
    if not {address.scheme, "all"}.isdisjoint(getproxies()):
        return None
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        os.environ["HF_HUB_OFFLINE"] = "1"
        reason = getattr(error, "strerror", None) or error
        return f"the hub ({endpoint}) cannot be reached ({reason}): only what its cache has is used"
    return None
