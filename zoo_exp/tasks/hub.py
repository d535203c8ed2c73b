"""Check whether the hub is reachable; without a network, its client retries for half a minute before it fails."""

import os
import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies

ENDPOINT = "https://huggingface.co"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment variables that configure access to the hub."""
SECONDS = 3.0
"""Timeout for connecting to one address of the hub."""


def go_offline_if_unreachable() -> str | None:
    """Try to connect to the hub; if it fails, make its client and all child processes use the cache only.

    The client reads the environment variable on import, so this must be called before. Nothing is done if the user has
    set one of the variables, or if a proxy is configured.

    Returns:
        A message for the user if the hub cannot be reached, else None.
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
        return f"the hub ({endpoint}) cannot be reached ({reason}): using cached files only"
    return None
