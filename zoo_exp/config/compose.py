"""From overrides to an `Experiment`, in one function; Hydra's compose API and its errors stay inside."""

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoo_exp.config import checked_yaml, folders, overrides
from zoo_exp.config.arms import (
    AUTO,
    check_family,
    check_tasks,
    expand,
    family_of,
    open_tasks,
    resolve_claims,
    tasks_of_split,
)
from zoo_exp.config.early import early_problems
from zoo_exp.config.engines import check_engine, with_version
from zoo_exp.config.experiment import Arm, Experiment
from zoo_exp.config.schema import ArmConfig, ClaimConfig, RunConfig, violations
from zoo_exp.config.wrong_types import in_one_line
from zoo_exp.errors import InvalidValueError, UnknownNameError, ZooExpError
from zoo_exp.models.llava_protocol import check_protocol
from zoo_exp.registry import is_code_file

_OF_ARM = re.compile(r"^arms\[\d+\]\.")


def compose(texts: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> Experiment:
    """Compose, check and resolve one experiment.

    Args:
        texts: overrides in Hydra's grammar, such as `+exp=ablation_fusion` and `budget=[48,16]`.
        config_dirs: the user's folders, with the same groups as `configs/`.

    Raises:
        UnknownNameError: a key, group choice, selector, option or task that does not exist.
        InvalidValueError: a value that its key does not allow; several problems are listed at once.
        MissingFileError: a folder of `config_dirs` that does not exist.
    """
    notes: list[str] = []
    config = run_config(texts, config_dirs, notes)
    if config.model.family == AUTO:
        config.model.family = family_of(config.model.path, config.model.revision)
    wrong = list(violations(config))
    if any(text.lstrip("+").startswith("selector.") for text in texts):  # the arms are those of selector=
        wrong = list(dict.fromkeys(_OF_ARM.sub("selector.", text) for text in wrong))
    problems: list[ZooExpError] = [InvalidValueError(text) for text in wrong]
    config.tasks, unread = open_tasks(config.tasks)
    if config.split is not None:
        config.tasks = tasks_of_split(config.tasks, config.split, problems)
    problems += check_family(config.model.family) + unread + ([] if unread else check_tasks(config.tasks))
    mine = [arm for arm in config.arms if config.model.family not in arm.without]
    problems += early_problems(mine, config.budgets, config.model.n_visual)
    overrides.raise_all(problems)
    arms: tuple[Arm, ...] = ()
    try:
        if config.model.protocol == "llava":
            check_protocol("llava", config.model.family, config.model.name)
        arms = expand(mine, config.budgets, config.model.n_visual, config.model.zoo)
        config.claims = resolve_claims(config.claims, config.arms, arms, config.model.zoo)
    except ZooExpError as error:
        problems.append(error)
    if not problems:
        problems += check_engine(config, arms)
    overrides.raise_all(problems)
    return Experiment(
        name=config.name,
        model=config.model,
        tasks=tuple(config.tasks),
        arms=arms,
        data=config.data,
        trainer=config.trainer,
        engine=with_version(config.engine),
        cache=config.cache,
        logger=config.logger,
        seed=config.seed,
        limit=config.limit,
        fresh=config.fresh,
        out=Path(config.out).expanduser(),
        question=config.question,
        overrides=tuple(texts),
        claims=tuple(config.claims),
        left_out=_left_out(config),
        notes=tuple(notes),
    )


def _left_out(config: RunConfig) -> tuple[str, ...]:
    """Arms that the experiment leaves out on the model's family, and why, one sentence each."""
    family = config.model.family
    return tuple(
        f"{arm.label or arm.selector} is left out on {config.model.name}: {arm.without[family]}"
        for arm in config.arms
        if family in arm.without
    )


def run_config(
    texts: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), notes: list[str] | None = None
) -> RunConfig:
    """Compose files and overrides into the schema, without looking up the names of selectors and tasks.

    Args:
        texts: see `compose`.
        config_dirs: see `compose`.
        notes: takes what a user should know of how the overrides were applied.

    Raises:
        UnknownNameError, InvalidValueError, MissingFileError: see `compose`.
    """
    search_path = folders.search_path(config_dirs)
    request = overrides.read(texts, search_path)
    files = [folders.find("exp", request.exp, search_path)] if request.exp else []
    composed = None
    try:
        composed = _hydra(request, search_path)
        _refuse_unknown_keys(composed, [*files, search_path[0] / "config.yaml"])
        _replace_lists(composed, request, search_path)
        if notes is not None:
            notes += request.notes
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), composed)
        # A merge keeps the default where a file says ???, so both sides are checked.
        missing = sorted(OmegaConf.missing_keys(composed) | OmegaConf.missing_keys(merged))
        if missing:
            raise InvalidValueError(f"no value for {', '.join(missing)}: add {missing[0]}=VALUE")
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, HydraException) as error:
        raise InvalidValueError(in_one_line(error, composed)) from error
    except RecursionError:
        files_ = ", ".join(map(str, files)) or "the configuration"
        raise InvalidValueError(f"{files_}: its `defaults` include each other without end") from None
    assert isinstance(config, RunConfig)
    return config


def _hydra(request: overrides.Request, search_path: Sequence[Path]) -> DictConfig:
    """Compose the YAML files and set the keys that were given one by one, as Hydra does."""
    texts = [f"+exp@_global_={request.exp}"] if request.exp else []
    if len(search_path) > 1:
        config = _composed((*texts, *request.choices), search_path)
    else:
        config = deepcopy(_remembered((*texts, *request.choices), _state_of(search_path[0])))
    for override in request.values:
        if override.is_sweep_override():
            raise InvalidValueError(f"override '{override.input_line}': several values need a sweep (-m)")
        try:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
        except OmegaConfBaseException as error:
            raise InvalidValueError(f"Error merging override {override.input_line}") from error
    return config


@lru_cache(maxsize=64)
def _remembered(texts: tuple[str, ...], _: frozenset[tuple[str, int, int]]) -> DictConfig:
    """`_composed` of the built-in files: reading them takes a quarter of a second, and a sweep has many points.

    Args:
        texts: see `_composed`.
        _: the state of the files.
    """
    return _composed(texts, [folders.built_in()])


def _state_of(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Paths, sizes and times of the YAML files of a folder: what changes when one is edited."""
    found = ((path, path.stat()) for path in folder.rglob("*.yaml"))
    return frozenset((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)


def _composed(texts: Sequence[str], search_path: Sequence[Path]) -> DictConfig:
    """Compose the YAML files.

    Args:
        texts: group choices in Hydra's grammar.
        search_path: the built-in folder, then the user's folders.
    """
    own = []
    if len(search_path) > 1:
        checked_yaml.register_source()
        places = ",".join(f"'checked://{_quoted(folder)}'" for folder in search_path[1:])
        own.append(f"hydra.searchpath=[{places}]")
    with initialize_config_dir(str(search_path[0]), version_base="1.3"):
        config = hydra_compose("config", overrides=[*own, *texts])
    OmegaConf.set_struct(config, False)
    return config


def _quoted(folder: Path) -> str:
    """A path inside the single quotes of Hydra's grammar."""
    return str(folder).replace("\\", "\\\\").replace("'", "\\'")


def _replace_lists(config: DictConfig, request: overrides.Request, search_path: Sequence[Path]) -> None:
    """Replace the experiment's arms, tasks and budgets by those of `selector=`, `task=` and `budget=`."""
    if request.selectors is not None:
        config.claims = []  # they name rows of the arms that were replaced
        arms = [_arm_of(name, request, search_path) for name in request.selectors]
        _give_options(arms, request)
        config.arms = arms
    if request.tasks is not None:
        config.tasks = [task for name in request.tasks for task in _tasks_of(name, search_path)]
    if request.task_metric is not None:
        config.tasks = _with_metric(config.tasks, request.task_metric)
    if request.budgets is not None:
        config.budgets = request.budgets
        for arm in config.arms:
            arm.pop("budgets", None)


def _arm_of(name: str, request: overrides.Request, search_path: Sequence[Path]) -> dict[str, Any]:
    """The entry of `arms` for `selector=name`: its configuration file if it has one, else the defaults.

    `FILE.py:CLASS` is imported here; the entry has the name of the class.

    Raises:
        UnknownNameError: neither a file nor a selector has the name.
        InvalidValueError, MissingFileError: see `selectors.from_file`.
    """
    from zoo_exp import selectors

    files = folders.choices("selector", search_path)
    if name not in files and is_code_file(name):
        name = selectors.from_file(name)
    elif name not in files and name not in selectors.available():
        known = {*files, *selectors.available()}
        raise UnknownNameError("selector", name, known, selectors.REGISTRY.hint)
    arm: dict[str, Any] = folders.read(files[name]) if name in files else {"selector": name}
    options = arm.get("options")
    return {**arm, **request.selector_settings, "options": options if isinstance(options, dict) else {}}


def _give_options(arms: Sequence[dict[str, Any]], request: overrides.Request) -> None:
    """Set `selector.options.KEY` for the selectors that have the option; `request.notes` says which do not.

    Raises:
        UnknownNameError: none of them has the option; the message has the options that each of them has.
    """
    from zoo_exp import selectors

    if not request.selector_options:  # importing selectors takes seconds
        return
    of = {name: selectors.options_of(name) for name in (str(arm.get("selector")) for arm in arms)}
    for option, value in request.selector_options.items():
        having = [arm for arm in arms if option in of[str(arm.get("selector"))]]
        if not having:
            raise selectors.unknown_option(option, of)
        for arm in having:
            arm["options"] = {**arm["options"], option: value}
        lacking = [str(arm.get("selector")) for arm in arms if arm not in having]
        if lacking:
            named = ", ".join(str(arm.get("selector")) for arm in having)
            verb = "has" if len(lacking) == 1 else "have"
            request.notes.append(
                f"selector.options.{option} applies to {named}; {', '.join(lacking)} {verb} no option {option}"
            )


def _tasks_of(name: str, search_path: Sequence[Path]) -> list[str]:
    """The tasks of `task=name`: a set of tasks from `configs/task/`, or a single task."""
    files = folders.choices("task", search_path)
    if name not in files:
        return [name]
    tasks = folders.read(files[name]).get("tasks")
    if not isinstance(tasks, list):
        raise InvalidValueError(f"{files[name]}: a set of tasks is `tasks: [name, ...]`")
    return [str(task) for task in tasks]


def _with_metric(names: Sequence[str], metric: str) -> list[str]:
    """Tasks with `task.metric=` for the files among them.

    Raises:
        InvalidValueError: none of them is a file.
    """
    from zoo_exp.tasks.own_files import is_own_file, with_metric

    if not any(map(is_own_file, names)):
        raise InvalidValueError(
            f"task.metric={metric} is for task files, such as task=my.jsonl; benchmarks have their own metric"
        )
    return [with_metric(name, metric) for name in names]


def _refuse_unknown_keys(config: DictConfig, files: Sequence[Path]) -> None:
    """Report every key that the schema does not have, with its file and line."""
    problems: list[ZooExpError] = []
    for key, allowed in _unknown(OmegaConf.to_container(config), RunConfig):
        lines = ((path, folders.line_of(key, path)) for path in files)
        place = next((f"({path.name}, line {line})" for path, line in lines if line), "")
        problems.append(UnknownNameError("config key", key, allowed, place))
    overrides.raise_all(problems)


def _unknown(content: Any, schema: Any, above: str = "") -> Iterator[tuple[str, list[str]]]:
    """Pairs of (unknown dotted key, keys that `schema` has at that level)."""
    if not isinstance(content, dict):
        return
    hints = get_type_hints(schema)
    for name, value in content.items():
        if name not in {item.name for item in fields(schema)}:
            yield f"{above}{name}", [f"{above}{item.name}" for item in fields(schema)]
        elif is_dataclass(hints[name]):
            yield from _unknown(value, hints[name], f"{above}{name}.")
        elif isinstance(value, list):
            for entry_schema in (kind for kind in (ArmConfig, ClaimConfig) if kind in get_args(hints[name])):
                for number, entry in enumerate(value):
                    yield from _unknown(entry, entry_schema, f"{above}{name}[{number}].")
