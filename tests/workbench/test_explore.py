"""`explore`: who gets an answer, what a request may ask for, and the page in a browser."""

import io
import json
import socket
import threading
from http.client import HTTPConnection

import pytest
from browser import CHROMIUM, Browser
from PIL import Image

from zoo_exp._cli import explore
from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import sources
from zoo_exp.workbench import browse
from zoo_exp.workbench.server import MOST_UPLOAD, TOKEN_HEADER

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


class Client:
    """Requests as a browser makes them, with what the test changes."""

    def __init__(self, server):
        self.server, self.port = server, server.port

    def __call__(self, method, path, body=None, key=True, token=True, **headers):
        """Status, headers and body of an answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Cookie": f"{self.server.cookie}={self.server.key}"} if key else {}
        if method == "POST" and token:
            given[TOKEN_HEADER] = self.server.token
        connection.request(
            method, path, body, {**given, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def ask(self, **given):
        """Status and content of a question to the model."""
        asked = {
            "image": 0,
            "question": "Is there a red circle?",
            "selectors": ["zoo"],
            "budget": "16",
            **given,
        }
        status, _, body = self("POST", "/ask", json.dumps(asked))
        return status, json.loads(body)


@pytest.fixture(scope="module")
def serve(embedded):
    """Start servers in threads of this process; all end with the module."""
    running = []

    def start(*texts):
        server = explore.start([*texts, "port=0"])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return Client(server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "load_configured", lambda model, device: embedded)
        yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def client(serve):
    return serve()


def test_the_printed_address_lets_a_browser_in(client):
    path = client.server.address.partition(str(client.port))[2]
    status, headers, _ = client("GET", path, key=False)
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    assert client("GET", "/?key=wrong", key=False)[0] == 403
    status, headers, body = client("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"<script src=" in body
    assert client.server.key not in body.decode()


@pytest.mark.parametrize("path", ["/", "/app.js", "/image?n=0", "/questions"])
def test_without_the_key_nothing_is_shown(client, path):
    status, _, body = client("GET", path, key=False)
    assert status == 403
    assert "has the key" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "", "[", "10.0.0.1:{port}"]
)
def test_other_names_of_the_server_are_refused(client, host):
    assert client("GET", "/", Host=host.format(port=client.port))[0] == 421


def test_this_machine_has_several_names(client):
    for name in ("localhost", "LOCALHOST", "127.0.0.1"):
        assert client("GET", "/", Host=f"{name}:{client.port}")[0] == 200


def test_a_change_needs_the_token_and_the_same_origin(client):
    body = json.dumps({"image": 0})
    assert client("POST", "/ask", body, token=False)[0] == 403
    assert client("POST", "/ask", body, Origin="http://evil.example")[0] == 403
    assert client("POST", "/ask", body, Origin="null")[0] == 403
    assert client("POST", "/ask", body, key=False)[0] == 403
    assert client("POST", "/ask", body, Origin=f"http://127.0.0.1:{client.port}")[0] == 400  # no selectors


@pytest.mark.parametrize(
    "path",
    ["/../app.js", "/app/page.html.j2", "/etc/passwd", "//etc/passwd", "/%2e%2e/server.py", "/image/../../x"],
)
def test_no_path_opens_a_file(client, path):
    assert client("GET", path)[0] == 404


def test_uploads_are_bounded_in_bytes_and_pixels(client):
    assert client("POST", "/upload", b"", Content_Length=str(MOST_UPLOAD + 1))[0] == 413
    assert client("POST", "/upload", b"no image")[0] == 400
    buffer = io.BytesIO()
    Image.new("1", (12_000, 6_000)).save(buffer, format="PNG")
    status, _, body = client("POST", "/upload", buffer.getvalue())
    assert status == 400
    assert "at most 64,000,000 are read" in json.loads(body)["error"]
    assert client("POST", "/ask", b" " * 70_000)[0] == 413
    assert client("POST", "/ask", b"[" * 60_000)[0] == 400


def test_old_uploads_make_room(client, monkeypatch):
    monkeypatch.setattr("zoo_exp.workbench.studio.MOST_PIXELS", 250)
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10)).save(buffer, format="PNG")
    numbers = [json.loads(client("POST", "/upload", buffer.getvalue())[2])["image"] for _ in range(3)]
    assert [client("GET", f"/image?n={number}")[0] for number in numbers] == [400, 200, 200]


def test_a_question_gets_a_panel_per_selector(client, scene):
    buffer = io.BytesIO()
    scene.save(buffer, format="PNG")
    number = json.loads(client("POST", "/upload", buffer.getvalue())[2])["image"]
    status, found = client.ask(image=number, selectors=["full", "zoo", "fastv"], new_tokens=2)
    assert status == 200
    assert [panel["arm"] for panel in found["panels"]] == ["full", "zoo multiply @16", "fastv @16"]
    assert [panel["kept"] for panel in found["panels"]] == [144, 16, 144]
    assert {panel["response"] for panel in found["panels"]} <= {"yes", "no"}
    assert all(panel["figure"].startswith("data:image/") for panel in found["panels"])
    status, preview = client.ask(image=number, selectors=["zoo", "fastv"], budget="8", respond=False)
    assert [(panel["kept"], panel["response"]) for panel in preview["panels"]] == [(8, None)]
    assert client.ask(budget="11.1%", new_tokens=1)[1]["panels"][0]["kept"] == 16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"selectors": []}, "at least one selector"),
        ({"selectors": ["zoo"] * 13}, "at most 12"),
        ({"selectors": ["evil.py:Evil"]}, "unknown selector"),
        ({"selectors": ["divprun"]}, "Did you mean 'divprune'"),
        ({"selectors": [["zoo"]]}, "unknown selector"),
        ({"budget": "1000"}, "1000"),
        ({"budget": "<b>"}, "budget"),
        ({"image": 99}, "unknown image"),
        ({"image": "0"}, "choose an image"),
        ({"question": " "}, "question is empty"),
        ({"new_tokens": 10**6}, "new_tokens"),
    ],
)
def test_a_bad_request_is_one_line(client, given, said):
    status, found = client.ask(**given)
    assert status == 400
    assert said in found["error"]
    assert "\n" not in found["error"]


def test_a_port_in_use_a_bad_port_and_two_runs(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", f"port={port}"]) == 2
    assert f"error: port={port} is in use: give another, such as port={port + 1}" in capsys.readouterr().err
    for bad in (
        ["port=x"],
        ["port=70000"],
        ["host="],
        ["a", "b"],
        ["host=203.0.113.7", "port=0"],
        [str(tmp_path)],
    ):
        with pytest.raises((InvalidValueError, FileNotFoundError)):
            explore.start(bad)


@pytest.fixture
def run(make_whole_run):
    return make_whole_run()


def test_questions_of_a_run_are_filtered(run):
    shown = browse.Browser(run)
    everything = shown.page(browse.Wanted())
    assert everything["total"] == shown.questions == 72
    assert len(everything["items"]) == browse.PAGE
    mine = "zoo multiply @16"
    counts = {}
    for kind in browse.FILTERS:
        page = shown.page(browse.Wanted(kind=kind, mine=mine))
        counts[kind] = page["total"]
        for item in page["items"]:
            arms = {arm["arm"]: arm["right"] for arm in shown.question(item["n"])["arms"]}
            others = {right for arm, right in arms.items() if arm != mine}
            if kind == "disagree":
                assert set(arms.values()) >= {True, False}
            if kind in ("wrong", "only_wrong"):
                assert arms[mine] is False
            if kind == "only_wrong":
                assert True in others
            if kind == "only_right":
                assert arms[mine] is True
                assert False in others
    assert counts["all"] > counts["disagree"] > counts["only_wrong"] > 0
    assert counts["wrong"] >= counts["only_wrong"]
    assert counts["not_applicable"] == 0
    task = shown.page(browse.Wanted(task=shown.tasks[0], page=99))
    assert (task["total"], task["page"]) == (24, 0)
    sample = everything["items"][3]
    assert sample["n"] in [
        item["n"] for item in shown.page(browse.Wanted(text=sample["id"].upper()))["items"]
    ]


def test_a_question_shows_the_masks_that_the_run_has(run):
    shown = browse.Browser(run)
    masked = next(shown.question(n) for n in range(shown.questions) if shown.question(n)["masked"])
    assert all(arm["figure"].startswith("data:image/") for arm in masked["arms"] if arm["arm"] != "blind")
    assert shown.masked_images(3)


def test_names_that_the_run_does_not_have_are_refused(serve, run):
    client = serve(str(run))
    for query in ("kind=x", "mine=x", "task=x", "kind=wrong&mine=x"):
        assert client("GET", f"/questions?{query}")[0] == 400
    assert client("GET", "/question?n=99999")[0] == 400
    assert client("GET", "/questions?text=&page=-1")[0] == 200


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser(serve, run, tmp_path):
    """Ask, move the budget, browse: what a reader does, on a run whose texts are attacks."""
    records = run / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    hostile = {name: HOSTILE for name in ("question", "response", "reference")}
    records.write_text("".join(json.dumps({**row, **hostile}) + "\n" for row in rows))
    client = serve(str(run))
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(client.server.address)
        assert browser.evaluate("location.search") == ""
        browser.wait("document.querySelectorAll('#detail .panel').length > 3")
        browser.evaluate("document.getElementById('kind').value = 'only_wrong';"
                         "document.getElementById('kind').dispatchEvent(new Event('change'))")  # fmt: skip
        browser.wait("document.getElementById('count').textContent.split(' ')[0] !== '72'")
        browser.evaluate("document.getElementById('tab-ask').click()")
        browser.evaluate("document.getElementById('question').value = 'Is there a red circle?';"
                         "document.getElementById('go').click()")  # fmt: skip
        browser.wait("document.querySelectorAll('#panels .response').length === 3")
        browser.evaluate("document.getElementById('budget').value = '40';"
                         "document.getElementById('budget').dispatchEvent(new Event('input'))")  # fmt: skip
        browser.wait("document.getElementById('panels').textContent.includes('40 of 144 tokens')")
        for width in (1280, 390):
            browser.resize(width, 900)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.title") == "zoo_exp explore: embedded"
        assert browser.messages == []
    finally:
        browser.close()
