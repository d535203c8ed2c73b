"""Explore an image, or the questions of a run, in the browser: a page served by this machine to this machine.

Ask: upload an image, type a question, choose selectors, move the budget; kept tokens, responses and times appear side
by side. With RUN (a run folder, or a folder above), its questions can be browsed and filtered as well: arms disagree,
mine wrong, by task, with masks.

Overrides are those of `run` (model, selector, trainer), and:
  port=7860          port of the page; port=0 takes a free one
  host=127.0.0.1     address to listen on; any other than this machine's own lets others in who have the printed address
Nothing leaves the machine. On a remote machine, forward the port: ssh -L 7860:127.0.0.1:7860 MACHINE. Ctrl-C ends it.

Examples:
  python -m zoo_exp explore
  python -m zoo_exp explore model=llava15_7b selector=[full,zoo,divprune,visionzip]
  python -m zoo_exp explore runs/ablation_fusion port=8000
"""

import argparse
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exp._cli.ask import with_defaults
from zoo_exp._cli.bench import device_for
from zoo_exp._cli.run import add_config_dir, check_sources
from zoo_exp.addresses import LOOPBACK, is_loopback, parse_port
from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from zoo_exp.workbench.server import Server

PORT, HOST = 7860, LOOPBACK
SAMPLES = 10
"""Images to choose from."""
SCENES = ("world2_gqa", "world2_vqav2", "world2_textvqa", "world2_mmmu")
"""Tasks whose images are offered where no task of the model is in the package."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run, overrides and flags of `explore`."""
    parser.add_argument("overrides", nargs="*", metavar="RUN key=value", help="a run folder, and overrides")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=explore)


def explore(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    server = start(args.overrides, args.config_dir)
    print(f"open {server.address}", flush=True)
    if not is_loopback(server.host):
        print(
            f"host={server.host}: everyone who reaches this machine and has that address can use it",
            flush=True,
        )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nended")
    finally:
        server.server_close()
    return 0


def start(texts: Sequence[str], config_dirs: Sequence[str] = ()) -> "Server":
    """A server that listens and is not serving yet.

    Raises:
        ZooExpError: bad overrides, no such run, or a port in use.
    """
    settings, runs, overrides = split(texts)
    from zoo_exp import presets
    from zoo_exp.config.compose import compose
    from zoo_exp.config.engines import needs_transformers
    from zoo_exp.workbench.browse import Browser

    browser = None
    if runs:
        from zoo_exp.runs.load import find_runs

        found = find_runs([Path(runs[0]).expanduser()])
        if len(found) > 1:
            raise InvalidValueError(
                f"{runs[0]} has runs of {len(found)} experiments: give one of them, such as {found[0]}"
            )
        browser = Browser(found[0])
    chosen = {text.lstrip("+").partition("=")[0] for text in overrides}
    # The manifest of a run may come from elsewhere: only the name of a model of this package is taken from it.
    if browser is not None and "model" not in chosen and browser.model in presets.names("model"):
        overrides = [*overrides, f"model={browser.model}"]
    experiment = compose(with_defaults(overrides), config_dirs)
    needs_transformers(experiment.engine, "explore")
    check_sources(replace(experiment, tasks=()))
    device = device_for(experiment.trainer.accelerator)

    def load() -> Any:
        from zoo_exp.evaluation.sources import load_configured

        return load_configured(experiment.model, device)

    from zoo_exp.workbench.server import Server
    from zoo_exp.workbench.studio import Studio

    studio = Studio(experiment, load, samples(browser, experiment.tasks))
    server = Server(studio, browser, settings["host"], settings["port"])
    if browser is None:  # with a run, the model is loaded by the first question, if there is one
        threading.Thread(target=studio.prepare, daemon=True).start()
    return server


def samples(browser: Any, names: Sequence[str]) -> list[Any]:
    """Images to choose from: those of the run, or of the embedded benchmarks among the tasks `names`."""
    from zoo_exp.workbench.studio import Sample

    if browser is not None:
        items = browser.masked_images(SAMPLES)
        return [Sample(item.image, item.question, item.reference) for item in items]
    from zoo_exp import tasks
    from zoo_exp.tasks import data

    own = [task for task in map(tasks.get, names) if task.source.kind == "embedded"]
    found: list[Any] = []
    for task in own or [tasks.get(name) for name in SCENES]:
        rows = data.load(task, None, 2, fewer=True)
        docs = [rows[number] for number in range(min(2, len(rows)))]
        found += [Sample(task.images(doc)[0], task.question(doc), str(task.reference(doc))) for doc in docs]
    return found[:SAMPLES]


def split(texts: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Settings of the page, at most one run folder, and overrides.

    >>> split(["runs/a", "port=8000", "model=embedded"])
    ({'port': 8000, 'host': '127.0.0.1'}, ['runs/a'], ['model=embedded'])

    Raises:
        InvalidValueError: a port that is none, or several runs.
    """
    settings: dict[str, Any] = {"port": PORT, "host": HOST}
    runs, overrides = [], []
    for text in texts:
        key, equals, value = text.lstrip("+").partition("=")
        if not equals or Path(text).is_dir():
            runs.append(text)
        elif key == "port":
            settings["port"] = parse_port(value, PORT)
        elif key == "host":
            if not value:
                raise InvalidValueError(f"host=: give an address, such as host={HOST}")
            settings["host"] = value
        else:
            overrides.append(text)
    if len(runs) > 1:
        raise InvalidValueError(f"explore shows one run, got {len(runs)}: {', '.join(runs)}")
    return settings, runs, overrides
