"""The command line of `serve`, and its parts that need no server."""

import signal
import socket
import subprocess
import sys

import pytest

from zoo_exp.cli import main
from zoo_exp.serving.serve_settings import take_settings
from zoo_exp.serving.text_stream import TextStream


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["selector=zo"], "Did you mean 'zoo'"),
        (["serve.prt=1"], "Did you mean 'port'"),
        (["serve.port=x"], "serve.port=x: give a whole number"),
        (["port=70000"], "from 0 to 65535"),
        (["host="], "give a value"),
        (["serve.root=nowhere"], "serve.root=nowhere: does not exist"),
        (["serve.root=a.txt"], "is a file"),
        (["host=0.0.0.0"], "a key is needed: export ZOO_EXP_API_KEY"),
        (["serve.api_key=short"], "at least 8 characters"),
        (["serve.queue=-1"], "from 0 to 10000"),
        (["selector=[zoo,divprune]"], "one selector and one budget, got 2"),
        (["budget=[16,8]"], "one selector and one budget, got 2"),
        (["selector=fastv", "engine=vllm", "engine.version=0.32.0"], "prunes between decoder layers"),
        (["budget=1000"], "above the 144 visual tokens"),
        (["model=no_such"], "no_such"),
        (["host=203.0.113.7", "serve.api_key=long-enough"], "cannot listen there"),
        (["hello"], "not key=value"),
    ],
)
def test_bad_input_is_one_line(given, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_EXP_API_KEY", raising=False)
    (tmp_path / "a.txt").write_text("x")
    assert main(["serve", *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "=short" not in line  # a key is not repeated


def test_a_port_in_use(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", f"serve.port={port}"]) == 2
    assert f"error: port={port} is in use: give another" in capsys.readouterr().err


def test_without_the_extra_the_line_says_what_to_install(capsys, monkeypatch):
    packages = ("starlette", "uvicorn")  # also where no test has imported them yet: the server would start
    for name in {*packages, *(name for name in sys.modules if name.partition(".")[0] in packages)}:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("http_server", "http_app", "guard"):
        monkeypatch.delitem(sys.modules, f"zoo_exp.serving.{name}", raising=False)
    assert main(["serve"]) == 2
    assert "pip install 'zoo-exp[serve]'" in capsys.readouterr().err


def test_the_key_comes_from_the_command_line_or_the_environment():
    environment = {"ZOO_EXP_API_KEY": "from-the-environment"}
    assert take_settings([], environment)[0].api_key == "from-the-environment"
    assert take_settings(["serve.api_key=from-the-line"], environment)[0].api_key == "from-the-line"
    settings, rest = take_settings(["host=::1", "+serve.port=1", "budget=3", "serve.batch=4"], {})
    assert (settings.host, settings.port, settings.batch, rest) == ("::1", 1, 4, ["budget=3"])


@pytest.mark.parametrize("stops", [(), ("\n\n",), ("one two",), ("wo",), ("é t", "x")])
@pytest.mark.parametrize("text", ["one two\n\nthree ", "  né two x", "on\ne two", "", "\n\n", "one tw"])
def test_pieces_of_a_stream_are_the_text_of_a_response(text, stops):
    """Bytes come one by one, so that characters are incomplete in between."""
    stream = TextStream(lambda ids: bytes(ids).decode(errors="replace"), stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push([byte]))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    wanted = text
    for stop in stops:
        wanted = wanted.split(stop)[0]
    assert "".join(pieces) == stream.text == wanted.strip()
    assert stream.stopped == any(stop in text for stop in stops)


@pytest.mark.slow
def test_a_signal_ends_the_process_with_code_0():
    """It is sent at once, when uvicorn may not handle it yet."""
    command = [sys.executable, "-m", "zoo_exp", "serve", "serve.port=0", "budget=16"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        while "serving" not in line:
            assert process.poll() is None
            line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "ended", "")
