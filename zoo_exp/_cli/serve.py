"""Serve a pruned model over HTTP, with OpenAI's interface: chat completions with images.

Overrides are those of `run` (model, one selector, one budget, seed, trainer, engine=vllm), and:
  serve.port=8000        port; serve.port=0 takes a free one (port= and host= also work, as in explore)
  serve.host=127.0.0.1   address to listen on; one that others reach needs an API key
  serve.api_key=KEY      key that requests must carry (Authorization: Bearer KEY); the environment variable
                         ZOO_EXP_API_KEY does not show it to other users of the machine
  serve.root=DIR         requests may name images below this folder (default: data URLs only)
  serve.name=NAME        name of the model in requests (default: that of model=)
  serve.max_tokens=1024  most generated tokens of a response
  serve.images=8         most images of a request
  serve.body_mb=32       most MiB of a request
  serve.queue=32         most requests that wait; others get status 429
  serve.seconds=300      time limit of a request
  serve.batch=N          most requests that are answered at the same time (default: 1, with vLLM 16); transformers
                         takes those of the same selector and budget as one batch
A request may choose another selector and budget (selector, budget), and gets its kept tokens and times in `usage`.
Responses are decoded greedily. Nothing is fetched from the network. Ctrl-C or SIGTERM ends it: the response that is
being generated has 10 seconds. Needs: pip install 'zoo-exp[serve]'. See docs/serving.md.

Examples:
  python -m zoo_exp serve
  python -m zoo_exp serve model=llava15_7b selector=zoo budget=64 serve.root=photos
  python -m zoo_exp serve model=llava15_7b selector=zoo budget=64 engine=vllm
  ZOO_EXP_API_KEY=... python -m zoo_exp serve model=qwen25_vl_7b budget=20% host=0.0.0.0
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo_exp._cli.bench import device_for
from zoo_exp._cli.run import add_config_dir, check_sources
from zoo_exp.errors import InvalidValueError
from zoo_exp.files import log

if TYPE_CHECKING:
    from zoo_exp.config.experiment import Arm, Experiment
    from zoo_exp.serving.http_server import HttpServer

DEFAULT_ARMS, DEFAULT_BUDGET = "selector=zoo", "budget=['22.2%']"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `serve`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides, and settings of the server"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=serve)


def serve(args: argparse.Namespace) -> int:
    """Load the model and serve until Ctrl-C or SIGTERM."""
    if args.debug:
        log.setLevel(logging.DEBUG)  # requests that fail by a bug then show their traceback
    try:
        server = start(args.overrides, args.config_dir)

        def stop(number: int, frame: Any) -> None:
            server.stop()

        # For signals until uvicorn handles them, and for the one that it raises again when it has ended.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            print(f"serving {server.service.name} at {server.address} ({server.summary})", flush=True)
            if server.warning:
                print(server.warning, flush=True)
            server.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    except KeyboardInterrupt:  # while the model was loaded
        pass
    print("ended", flush=True)
    return 0


def start(texts: Sequence[str], config_dirs: Sequence[str] = (), environment: Any = None) -> "HttpServer":
    """A server whose model is loaded and that is not serving yet.

    Raises:
        ZooExpError: bad overrides or settings, a port in use, or a selector that this model cannot run.
    """
    from zoo_exp.config.compose import compose
    from zoo_exp.serving.serve_settings import take_settings

    settings, overrides = take_settings(texts, os.environ if environment is None else environment)
    try:
        from zoo_exp.serving.http_server import HttpServer
    except ImportError as error:
        raise InvalidValueError(
            f"serve needs packages that are not here ({error.name}): pip install 'zoo-exp[serve]'"
        ) from error
    from zoo_exp.addresses import bound_socket

    experiment = compose(with_defaults(overrides), config_dirs)
    arm = only_arm(experiment)
    check_sources(replace(experiment, tasks=()))
    device = device_for(experiment.trainer.accelerator)
    listening = bound_socket(settings.host, settings.port)
    try:
        from zoo_exp.evaluation.sources import load_configured
        from zoo_exp.serving.opening import open_generator
        from zoo_exp.threads import use_threads

        use_threads(experiment.trainer.threads)
        loaded = load_configured(experiment.model, device, decoder=experiment.engine.name == "hf")
        generator = open_generator(experiment.engine, experiment.model, loaded)
        try:
            return HttpServer(loaded, generator, experiment, arm, settings, listening, say)
        except BaseException:
            generator.close()
            raise
    except BaseException:
        listening.close()
        raise


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """Overrides with the default selector and budget, unless they choose others."""
    chosen = {text.lstrip("+").partition("=")[0] for text in overrides}
    more = [] if chosen & {"exp", "selector"} else [DEFAULT_ARMS]
    return [*overrides, *more, *([] if chosen & {"exp", "budget"} else [DEFAULT_BUDGET])]


def only_arm(experiment: "Experiment") -> "Arm":
    """The arm of requests that name none.

    Raises:
        InvalidValueError: several selectors or budgets.
    """
    arms = [arm for arm in experiment.arms if not arm.seed_index]
    if len(arms) > 1:
        raise InvalidValueError(
            f"serve takes one selector and one budget, got {len(arms)} ({arms[0].row}, {arms[1].row} ...): give "
            "selector=zoo budget=64; a request may choose others"
        )
    return replace(arms[0], label=arms[0].row)


def say(line: str) -> None:
    """One line of the log, with the time of day."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=sys.stderr, flush=True)
