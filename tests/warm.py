"""`Popen` and `run` for Python commands, as those of `subprocess`, without the seconds of imports.

A server process imports what a run needs and answers one question with the embedded model; each command is a fork of
it, with arguments, environment, folder and standard streams of its own. The ranks that Lightning starts from such a
process are forks too. A test about the first seconds of an interpreter must start a real one, and so must a test that
sets variables which a library reads while it is imported (`HF_*`). W&B is not imported here for that reason.
"""

import contextlib
import fcntl
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

_MODULES = (
    "lightning.pytorch",
    "lightning.pytorch.strategies.launchers.subprocess_script",
    "rich.progress",
    "torch",
    "transformers",
    "zoo_exp.cli",
    "zoo_exp.pipeline",
)
_RUN = [
    "run",
    "selector=[full,zoo]",
    "budget=16",
    "task=embedded_pope",
    "limit=1",
    "logger=none",
    "trainer=cpu",
]


class Popen:
    """A forked `[sys.executable, ...]` with the part of `subprocess.Popen` that tests use.

    Args:
        command: `-m MODULE`, `-c CODE` or a script, behind the interpreter, and their arguments.
        env: the whole environment; None for this process's.
        cwd: folder; None for this process's.
        stdin: None (nothing to read) or `subprocess.PIPE`.
        stdout: None (this process's), `subprocess.PIPE` or `subprocess.DEVNULL`.
        stderr: the same, or `subprocess.STDOUT`.
        text: whether pipes have text instead of bytes.
        start_new_session: whether it leads a process group of its own.
        tied: whether it is killed when this process ends.
    """

    def __init__(
        self, command, *, env=None, cwd=None, stdin=None, stdout=None, stderr=None, text=False,
        start_new_session=False, tied=False,
    ):  # fmt: skip
        assert command[0] == sys.executable, command
        self.args, self.returncode, self.stdin, self.stdout, self.stderr = command, None, None, None, None
        theirs = []
        if stdin == subprocess.PIPE:
            read, write = os.pipe()
            theirs.append(read)
            self.stdin = os.fdopen(write, "w" if text else "wb")
        else:
            theirs.append(os.open(os.devnull, os.O_RDONLY))
        for name, wanted, own in (("stdout", stdout, 1), ("stderr", stderr, 2)):
            if wanted == subprocess.PIPE:
                read, write = os.pipe()
                theirs.append(write)
                setattr(self, name, os.fdopen(read, "r" if text else "rb"))
            elif wanted == subprocess.STDOUT:
                theirs.append(os.dup(theirs[1]))
            else:
                theirs.append(
                    os.open(os.devnull, os.O_WRONLY) if wanted == subprocess.DEVNULL else os.dup(own)
                )
        request = {
            "command": [str(word) for word in command[1:]], "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or os.getcwd()), "session": start_new_session, "tied": tied,
        }  # fmt: skip
        self._status = socket.socket(socket.AF_UNIX)
        self._status.connect(_address())
        socket.send_fds(self._status, [b"."], theirs)
        for file in theirs:
            os.close(file)
        self._status.sendall(json.dumps(request).encode() + b"\n")
        self._lines = self._status.makefile()
        self.pid = int(self._lines.readline())

    def poll(self):
        """The exit code, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout=None):
        """Wait for the end; the exit code."""
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout):
        if self.returncode is None:
            with selectors.DefaultSelector() as ready:
                ready.register(self._status, selectors.EVENT_READ)
                if ready.select(timeout):
                    self.returncode = int(self._lines.readline())
                    self._lines.close()
                    self._status.close()
        return self.returncode

    def send_signal(self, number):
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.wait()

    def communicate(self, timeout=None):
        """Read both pipes to their ends and wait; what was printed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pipes = [pipe for pipe in (self.stdout, self.stderr) if pipe]
        raw = {pipe: b"" for pipe in pipes}
        if self.stdin:
            self.stdin.close()
        with selectors.DefaultSelector() as ready:
            for pipe in pipes:
                ready.register(pipe, selectors.EVENT_READ)
            while ready.get_map():
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                events = ready.select(left)
                if not events:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                for key, _ in events:
                    data = os.read(key.fd, 65536)
                    raw[key.fileobj] += data
                    if not data:
                        ready.unregister(key.fileobj)
        self.wait(None if deadline is None else max(deadline - time.monotonic(), 0.01))
        shown = []
        for pipe in (self.stdout, self.stderr):
            text = isinstance(pipe, io.TextIOBase)
            shown.append(pipe and (raw[pipe].decode() if text else raw[pipe]))
            if pipe:
                pipe.close()
        return tuple(shown)


def run(command, *, capture_output=False, text=False, timeout=None, check=False, **options):
    """As `subprocess.run`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Popen(command, text=text, **options)
    try:
        stdout, stderr = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def interpreter(path):
    """Write a program that stands for the interpreter where a path is asked for, as in a job of SLURM.

    It passes its signals on to the fork; the fork dies with it.
    """
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} --as-child {_address()} "$@"\n')
    path.chmod(0o755)
    return path


def _as_child(address, *command):
    """What that program does: ends as the fork ends."""
    _server.append(address)
    fork = Popen([sys.executable, *command], tied=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: fork.send_signal(number))
    code = fork.wait()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


_environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
"""What libraries read when they are imported; tests may have changed it when the server starts."""
_server = []
"""The address and the connection that keeps the server, once there is one."""


def _address():
    """Where the server listens that all processes of a test run share: the first command starts it.

    It ends with the last process that uses it.
    """
    if not _server:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
        folder = f"{tempfile.gettempdir()}/warm{run[:12]}" if run else tempfile.mkdtemp(prefix="warm")
        address = f"{folder}/socket"  # the server removes the folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(f"{folder}/lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # one process starts it, and the others wait
            _server.extend([address, _tie(address) or _tie(_start(address))])
    return _server[0]


def _tie(address):
    """A connection that keeps the server until this process ends; None without a server."""
    tie = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        tie.connect(address)
        tie.sendall(b"t")
        if tie.recv(1):
            return tie
    tie.close()
    return None


def _start(address):
    """Start a server; its address."""
    os.makedirs(os.path.dirname(address), mode=0o700, exist_ok=True)  # the last server may have removed it
    environment = _environment | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        env=environment, start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return address


class _Forked:
    """A child of this process, for Lightning's launcher: waits as a fork until it is told what to be."""

    def __init__(self):
        read, self._told = os.pipe()
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            with os.fdopen(read) as told:
                line = told.readline()
            if not line:
                os._exit(0)
            raise _Request(json.loads(line))
        os.close(read)

    def __call__(self, command, env, cwd=None):
        """Start the command: what Lightning calls `subprocess.Popen`."""
        request = {"command": command[1:], "env": env, "cwd": cwd or os.getcwd(), "session": False}
        os.write(self._told, json.dumps(request).encode() + b"\n")
        os.close(self._told)
        return self

    def poll(self):
        """The exit code, or None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class _Request(Exception):
    """Leaves the stack of the server in a child, with what the child is to do."""


def _serve(address):
    """Fork a child for each request until nobody is tied to this server; raises `_Request` in children."""
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)  # of a server that was killed
    listener.bind(address)
    listener.listen()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    print("ready", flush=True)
    running, ties = {}, set()
    with selectors.DefaultSelector() as ready:
        for source in (listener, wake):
            ready.register(source, selectors.EVENT_READ)
        while True:
            sources = {key.fileobj for key, _ in ready.select()}
            for tie in ties & sources:
                ready.unregister(tie)
                ties.remove(tie)
                tie.close()
                if not ties:
                    return
            if wake in sources:
                os.read(wake, 4096)
                for asker in _reap(running):
                    with contextlib.suppress(KeyError):
                        ready.unregister(asker)
                    asker.close()
            for child, asker in running.items():
                if asker in sources:
                    ready.unregister(asker)
                    os.kill(child, signal.SIGKILL)
            if listener in sources:
                asker, _ = listener.accept()
                what, files, _, _ = socket.recv_fds(asker, 1, 3)
                if what != b".":
                    if what:
                        asker.sendall(what)
                        ready.register(asker, selectors.EVENT_READ)
                        ties.add(asker)
                    continue
                with asker.makefile() as lines:
                    request = json.loads(lines.readline())
                child = os.fork()
                if child == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    if request["session"]:
                        os.setsid()
                    for target, file in enumerate(files):
                        os.dup2(file, target)
                    os.closerange(3, 256)
                    raise _Request(request | {"first": True})
                for file in files:
                    os.close(file)
                asker.sendall(f"{child}\n".encode())
                running[child] = asker
                if request["tied"]:
                    ready.register(asker, selectors.EVENT_READ)  # it says nothing more before it ends


def _reap(running):
    """Report the children that have ended to those who asked for them; who asked."""
    for child in list(running):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            asker = running.pop(child)
            with contextlib.suppress(OSError):
                asker.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            yield asker


def _become(request):
    """Do in this process what a new interpreter with these arguments would do."""
    if request.get("first") and any(word.startswith("trainer.devices=") for word in request["command"]):
        from lightning.pytorch.strategies.launchers import subprocess_script

        second = _Forked()  # before this process has done anything
        subprocess_script.subprocess = type("subprocess", (), {"Popen": second})
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    from lightning.fabric.utilities import rank_zero  # it reads the environment when it is imported

    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    kind, *rest = request["command"]
    sys.path[0] = request["cwd"] if kind in ("-m", "-c") else os.path.dirname(os.path.abspath(kind))
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


def _warm_up():
    """Import what runs import, also the modules that only answering needs."""
    import importlib

    import torch

    for name in _MODULES:
        importlib.import_module(name)
    torch.set_num_threads(1)  # a process with more threads cannot be forked
    from rich.console import Console

    from zoo_exp import pipeline
    from zoo_exp.config import compose

    with tempfile.TemporaryDirectory() as folder:
        assert pipeline.run(compose([*_RUN[1:], f"out={folder}"]), Console(quiet=True)) == 0


if __name__ == "__main__" and sys.argv[1] == "--as-child":
    sys.exit(_as_child(*sys.argv[2:]))

if __name__ == "__main__":
    _warm_up()
    todo = None
    try:
        _serve(sys.argv[1])
        shutil.rmtree(os.path.dirname(sys.argv[1]))
    except _Request as request:
        (todo,) = request.args
    while todo:
        try:
            task, todo = todo, None
            _become(task)
        except _Request as request:  # in the fork of a fork
            (todo,) = request.args
