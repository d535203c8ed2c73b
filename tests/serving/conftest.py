"""A server with the embedded model in a thread of this process, and the real `openai` client."""

import base64
import io
import threading
import time
from http.client import HTTPConnection

import openai
import pytest

import zoo_exp
from zoo_exp import tasks
from zoo_exp._cli import serve as command
from zoo_exp.evaluation import sources
from zoo_exp.tasks import data

QUESTION = "What color is the ring?"


@pytest.fixture(scope="session")
def embedded():
    return zoo_exp.load_model("embedded")


@pytest.fixture(scope="session")
def rows():
    """Three rows of a task of the embedded model."""
    found = data.load(tasks.get("world2_vqav2"), None, 3)
    return [found[number] for number in range(3)]


@pytest.fixture(scope="session")
def scene(rows):
    return tasks.get("world2_vqav2").images(rows[0])[0]


@pytest.fixture(scope="session")
def png(scene):
    buffer = io.BytesIO()
    scene.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def data_url(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


class Running:
    """A server that serves, and ways to talk to it."""

    def __init__(self, server):
        self.server, self.lines = server, []
        server.service.say = self.lines.append
        self.thread = threading.Thread(target=server.run, daemon=True)

    def client(self, **options):
        """The `openai` client; it does not repeat failed requests."""
        given = {
            "base_url": self.server.address,
            "api_key": "none",
            "max_retries": 0,
            "timeout": 60,
            **options,
        }
        return openai.OpenAI(**given)

    def raw(self, method, path, body=None, **headers):
        """Status, headers and body of one request as it is written here."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        given = {"Content-Type": "application/json"} if body is not None else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {**given, **named})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def wait(self, condition):
        """Wait until a condition holds, such as that a log line is there."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(scope="session")
def serve(embedded):
    """Start servers in threads of this process; all end with the session."""
    running = []

    def start(*texts, environment=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "load_configured", lambda model, device, decoder: embedded)
            found = Running(command.start([*texts, "serve.port=0"], (), environment or {}))
        found.thread.start()
        running.append(found)
        found.wait(lambda: found.server.listens)
        return found

    yield start
    for one in running:
        one.server.stop()
    for one in running:
        one.thread.join(30)


@pytest.fixture(scope="session")
def running(serve, tmp_path_factory, png):
    """A server with a folder of images, one file that is none, and a link out of the folder."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.png").write_bytes(png)
    root = tmp_path_factory.mktemp("root")
    (root / "sub").mkdir()
    (root / "sub" / "a scene.png").write_bytes(png)
    (root / "scene.png").write_bytes(png)
    (root / "no_image.png").write_bytes(b"<html>")
    (root / "link.png").symlink_to(outside / "secret.png")
    return serve("selector=zoo", "budget=16", f"serve.root={root}", "serve.images=2", "serve.max_tokens=64")


@pytest.fixture(scope="session")
def client(running):
    return running.client()


@pytest.fixture(scope="session")
def about(data_url):
    """Messages of one user turn with images."""

    def build(question=QUESTION, *urls):
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls or (data_url,)]
        return [{"role": "user", "content": [{"type": "text", "text": question}, *shown]}]

    return build
