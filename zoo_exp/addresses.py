"""Addresses that a server of this package listens on: which are this machine's own, and why listening fails."""

import errno
import ipaddress
import socket
from urllib.parse import urlsplit

from zoo_exp.errors import InvalidValueError

LOOPBACK = "127.0.0.1"
"""The address that only this machine reaches."""


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Whether a host is given in digits.

    >>> is_address("10.0.0.1"), is_address("::1"), is_address("example.org")
    (True, True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def name_and_port(header: str) -> tuple[str, int]:
    """Name and port of a Host header; an empty name for one that is malformed.

    >>> name_and_port("LocalHost:8000"), name_and_port("[::1]"), name_and_port("a:b")
    (('localhost', 8000), ('::1', 80), ('', 80))
    """
    try:
        parts = urlsplit(f"//{header}")
        return (parts.hostname or "").lower(), parts.port or 80
    except ValueError:
        return "", 80


def url(host: str, port: int) -> str:
    """The address of a server for users; one that listens everywhere is named after this machine.

    >>> url("127.0.0.1", 8000), url("::1", 8000)
    ('http://127.0.0.1:8000', 'http://[::1]:8000')
    """
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def parse_port(text: str, usual: int, key: str = "port") -> int:
    """A port from the command line; 0 is a free one.

    Args:
        text: as typed.
        usual: the default, for the message.
        key: name of the option, for the message.

    Raises:
        InvalidValueError: no whole number from 0 to 65535.
    """
    if not text.isdecimal() or len(text) > 5 or int(text) > 65_535:
        raise InvalidValueError(f"{key}={text}: give a whole number from 0 to 65535, such as {key}={usual}")
    return int(text)


def cannot_listen(host: str, port: int, error: OSError) -> InvalidValueError:
    """Why a server cannot listen at an address, as one line.

    Args:
        host: the address.
        port: the port.
        error: what the operating system said.
    """
    if error.errno == errno.EADDRINUSE:
        return InvalidValueError(
            f"port={port} is in use: give another, such as port={port + 1}, or port=0 for a free one"
        )
    if error.errno == errno.EACCES:
        return InvalidValueError(
            f"port={port} needs privileges: give one above 1023, such as port={port + 8000}"
        )
    return InvalidValueError(
        f"host={host}: cannot listen there ({error.strerror or error}); the default is {LOOPBACK}"
    )


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address and not listening yet: connections are refused until it does.

    Args:
        host: the address.
        port: the port; 0 takes a free one.

    Raises:
        InvalidValueError: the address is in use, or none of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise cannot_listen(host, port, error) from error
    return bound
