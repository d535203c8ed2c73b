"""The web server of `explore`: the standard library's, for one user, on this machine.

Every request must name this server in its Host header (otherwise a page elsewhere could reach it through a name of its
own that resolves to this machine) and carry the cookie that the printed address sets, as other users of a shared
machine can reach its loopback as well. What changes something also needs the page's own token, which no other page can
read. No request names a file: images and questions have numbers, and the files of the page are a fixed list.
"""

import hmac
import io
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import jinja2

from zoo_exp.addresses import cannot_listen, is_address, is_loopback, name_and_port, url
from zoo_exp.errors import ZooExpError, ending
from zoo_exp.files import log
from zoo_exp.report.html_page import page_file
from zoo_exp.report.page_galleries import script_json
from zoo_exp.workbench.browse import FILTERS, Browser, Wanted
from zoo_exp.workbench.studio import Studio, budgets_of

MOST_UPLOAD = 32 * 2**20
"""Bytes of an uploaded file."""
MOST_REQUEST = 64 * 2**10
"""Bytes of any other request."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TOKEN_HEADER = "X-Zoo-Token"


class _Refused(Exception):
    """A request that is not answered: its status and what is said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one studio, and a run's questions if there is one.

    Args:
        studio: model and images.
        browser: questions of a run, or None.
        host: address to listen on.
        port: port; 0 takes a free one.

    Attributes:
        key: part of the address that lets a browser in.
        token: what the page sends with every change.

    Raises:
        InvalidValueError: the address is in use, or none of this machine.
    """

    daemon_threads = True

    def __init__(self, studio: Studio, browser: Browser | None, host: str, port: int) -> None:
        self.studio, self.browser, self.host = studio, browser, host
        self.key, self.token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise cannot_listen(host, port, error) from error
        self.cookie = f"zoo_exp_{self.port}"  # cookies do not tell ports apart

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"{url(self.host, self.port)}/?key={self.key}"

    def is_own(self, given: str) -> bool:
        """Whether a Host header names this server: its address, this machine's name, or any address in digits."""
        name, port = name_and_port(given)
        if port != self.port:
            return False
        if name in ("localhost", self.host.lower()):
            return True
        if is_loopback(self.host):
            return is_loopback(name)
        return name in (socket.gethostname().lower(), socket.getfqdn().lower()) or is_address(name)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before its answer is no error of the server."""
        log.debug("a connection ended early", exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version = "zoo_exp"
    sys_version = ""
    timeout: ClassVar[float] = 60.0

    def do_GET(self) -> None:
        """Page, its files, images, and questions of the run."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Uploads and questions to the model."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: their addresses may hold the key."""

    def _answer(self, work: Callable[[str, Mapping[str, str]], None]) -> None:
        try:
            if not self.server.is_own(self.headers.get("Host", "")):
                raise _Refused(421, "this server is not called that; use the address that explore printed")
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, max_num_fields=20).items()}
            if parts.path == "/" and self.command == "GET" and "key" in query:
                return self._enter(query["key"])
            if not self._has_key():
                raise _Refused(403, "open the address that explore printed: it has the key")
            work(parts.path, query)
        except _Refused as refused:
            self._json({"error": str(refused)}, refused.status)
        except ZooExpError as error:
            self._json({"error": str(error)}, 400)
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            log.debug("a request failed", exc_info=True)
            self._json({"error": ending(error)[0].removeprefix("error: ")}, 500)
        return None

    def _enter(self, key: str) -> None:
        """Set the cookie for the right key, and lead to the address without it."""
        if not hmac.compare_digest(key.encode(), self.server.key.encode()):
            raise _Refused(403, "wrong key: open the address that explore printed last")
        self.send_response(303)
        self.send_header("Location", "/")
        self.send_header("Set-Cookie", f"{self.server.cookie}={key}; HttpOnly; SameSite=Strict; Path=/")
        self._end({"Content-Length": "0"})

    def _has_key(self) -> bool:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self.server.key.encode())

    def _get(self, path: str, query: Mapping[str, str]) -> None:
        if path == "/":
            self._send(page(self.server).encode(), "text/html; charset=utf-8")
        elif path in FILES:
            kind = "text/css" if path.endswith(".css") else "text/javascript"
            self._send(FILES[path]().encode(), f"{kind}; charset=utf-8")
        elif path == "/image":
            image = self.server.studio.image(_number(query, "n")).copy()
            image.thumbnail((640, 640))
            buffer = io.BytesIO()
            image.save(buffer, format="PNG", compress_level=1)
            self._send(buffer.getvalue(), "image/png")
        elif path == "/questions":
            wanted = Wanted(
                query.get("task", ""),
                query.get("kind", "all"),
                query.get("mine", ""),
                query.get("text", "")[:200],
                _number(query, "page", 0),
            )
            self._json(self._run().page(wanted))
        elif path == "/question":
            self._json(self._run().question(_number(query, "n")))
        else:
            raise _Refused(404, "no such page")

    def _post(self, path: str, query: Mapping[str, str]) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and not self.server.is_own(origin.removeprefix("http://")):
            raise _Refused(403, "requests of other pages are refused")
        if not hmac.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), self.server.token.encode()):
            raise _Refused(403, "this page is from an earlier start of explore: reload it")
        if path == "/upload":
            self._json({"image": self.server.studio.add(self._body(MOST_UPLOAD))})
        elif path == "/ask":
            self._json(self.server.studio.ask(self._object()))
        else:
            raise _Refused(404, "no such page")

    def _run(self) -> Browser:
        if self.server.browser is None:
            raise _Refused(404, "explore was started without a run: python -m zoo_exp explore RUN")
        return self.server.browser

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(411, "the request has no length")
        if int(length) > most:
            raise _Refused(413, f"{int(length) / 2**20:.1f} MiB: at most {most / 2**20:g} MiB are taken")
        return self.rfile.read(int(length))

    def _object(self) -> dict[str, Any]:
        try:
            content = json.loads(self._body(MOST_REQUEST))
        except (ValueError, RecursionError) as error:
            raise _Refused(400, "the request is no JSON") from error
        if not isinstance(content, dict):
            raise _Refused(400, "the request is no JSON object")
        return content

    def _json(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), "application/json; charset=utf-8", status)

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self._end({"Content-Type": kind, "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _end(self, more: Mapping[str, str]) -> None:
        for name, value in {**HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()


def _number(query: Mapping[str, str], name: str, default: int = -1) -> int:
    text = query.get(name, str(default))
    return int(text) if text.isdecimal() and len(text) < 10 else default


def _own(name: str) -> str:
    return (resources.files("zoo_exp.workbench") / "app" / name).read_text(encoding="utf-8")


FILES: dict[str, Callable[[], str]] = {
    "/page.css": lambda: page_file("page.css"),
    "/app.css": lambda: _own("app.css"),
    "/app.js": lambda: _own("app.js"),
    "/run.js": lambda: _own("run.js"),
}


def page(server: Server) -> str:
    """The page, with what its scripts need to know."""
    studio, browser = server.studio, server.browser
    state = {
        "token": server.token,
        "model": studio.model.name,
        "samples": [{"question": s.question, "reference": s.reference} for s in studio.samples],
        "selectors": studio.selectors(),
        "chosen": studio.chosen,
        "budget": budgets_of(studio.model.n_visual),
        "run": None
        if browser is None
        else {
            "name": browser.name,
            "tasks": browser.tasks,
            "arms": browser.arms,
            "mine": browser.default_arm(),
            "kinds": FILTERS,
        },
    }
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _own("page.html.j2")
    )
    return template.render(
        model=studio.model.name,
        run=None if browser is None else f"{browser.name}/{browser.folder.resolve().name}",
        state=script_json(state),
    )
