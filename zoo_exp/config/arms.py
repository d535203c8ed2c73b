"""The arms of an experiment: one per selector, budget and repetition, all validated before any of them runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_exp import presets
from zoo_exp.config import identity
from zoo_exp.config.experiment import Arm
from zoo_exp.config.schema import ArmConfig, ClaimConfig
from zoo_exp.core.budget import WITHOUT_BUDGET, Budget
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError, ZooExpError
from zoo_exp.files import log
from zoo_exp.registry import is_code_file


def expand(
    configs: Sequence[ArmConfig],
    budgets: Sequence[Any],
    n_visual: int | None,
    zoo: Mapping[str, Any] | None = None,
) -> tuple[Arm, ...]:
    """All arms in the order of the configuration: budgets within an entry, repetitions within a budget.

    An entry with a label of its own whose arms are all there already is left out.

    Args:
        configs: entries of `arms`.
        budgets: budgets of the entries without budgets of their own.
        n_visual: N of the model, or None if it depends on the image; a count above N is refused.
        zoo: options of ZOO's arms on this model, unless an entry sets them.

    Raises:
        UnknownNameError: an unknown selector or option.
        InvalidValueError: an invalid option value or budget, two arms with the same label, or no arms.
    """
    arms: list[Arm] = []
    for config in configs:
        mine = _expand_one(_on_this_model(config, zoo or {}), budgets, n_visual)
        # Another name for what is there already: two readings of a budget are one where an image has no tiles.
        if config.label is None or not {arm.id for arm in mine} <= {arm.id for arm in arms}:
            arms += mine
    if not arms:
        hint = "add +exp=NAME (python -m zoo_exp list exps) or selector=NAME"
        raise InvalidValueError(f"the experiment has no arms: {hint}")
    shared = "is the label of two different arms: give one of them another label"
    for key, kind in (("id", "is listed twice"), ("label", shared)):
        seen: set[str] = set()
        for arm in arms:
            if getattr(arm, key) in seen:
                raise InvalidValueError(f"arm '{arm.label}' {kind}")
            seen.add(getattr(arm, key))
    return tuple(arms)


def _on_this_model(config: ArmConfig, zoo: Mapping[str, Any]) -> ArmConfig:
    """An entry with the model's own options of ZOO, where its score is the projector's sensitivity."""
    given = config.options
    measures = given.get("fusion") != "diversity" and given.get("estimator") != "feature_norm"
    if config.selector != "zoo" or not measures or given.get("layer") is not None:
        return config
    return dataclasses.replace(config, options={**zoo, **given})


def _expand_one(config: ArmConfig, budgets: Sequence[Any], n_visual: int | None) -> list[Arm]:
    """The arms of one configuration entry."""
    from zoo_exp import selectors
    from zoo_exp.selectors.layer.base import LayerSelector
    from zoo_exp.selectors.options import required_budget

    refuse_code(config.selector)
    name, options = selectors.resolve(config.selector, config.options)
    config = dataclasses.replace(config, selector=name, options=options)
    selector = selectors.get(name, **options)
    draws = getattr(selector, "stochastic", True) or getattr(selector, "stochastic_scores", False)
    draws = draws or getattr(selector, "seed_option", None)
    if config.seeds > 1 and not draws:
        raise InvalidValueError(
            f"arm '{config.selector}': seeds={config.seeds}, but this selector is deterministic: remove seeds"
        )
    if config.positions is not None:
        _check_positions(config.positions, config.selector, isinstance(selector, LayerSelector))
    settings, source = identity.settings(selector), identity.source_id(type(selector))
    if config.selector in WITHOUT_BUDGET:
        if config.budgets:
            raise InvalidValueError(f"arm '{config.selector}' takes no budget: remove budgets")
        resolved: list[Budget | None] = [None]
    else:
        resolved = [parse_budget(value, n_visual) for value in _budgets_of(config, budgets)]
        resolved = [budget for budget in resolved if not _too_small(budget, config.smallest, n_visual)]
        if isinstance(selector, LayerSelector):
            resolved = [required_budget(budget, selector.name) for budget in resolved]
    seeds = range(config.seeds)
    name = _name(config, selector)
    # An option that counts the repetitions, such as the seed of a method's random weights.
    counted = getattr(selector, "seed_option", None) if config.seeds > 1 else None
    if counted in config.options:
        counted = None
    return [
        _arm(config, name, counted, settings, budget, seed_index, source)
        for budget in resolved
        for seed_index in seeds
    ]


def refuse_code(name: str) -> None:
    """Refuse a selector from a Python file where a configuration file names it: those are shared, and start nothing.

    Raises:
        InvalidValueError: the name is that of a Python file.
    """
    if is_code_file(name):
        raise InvalidValueError(
            f"selector '{name}': a configuration file must not start code of a file. Name it on the command line "
            f"(selector={name}), or install it (docs/adding_a_selector.md)"
        )


def _too_small(budget: Budget | None, smallest: float | None, n_visual: int | None) -> bool:
    """Whether a budget is below an entry's smallest share of the visual tokens, as far as that can be told."""
    if budget is None or smallest is None or (budget.keep_ratio is None and n_visual is None):
        return False
    share = budget.keep_ratio if budget.keep_ratio is not None else (budget.count or 0) / (n_visual or 1)
    return budget.per != "tile" and share < smallest - 1e-3


def _budgets_of(config: ArmConfig, budgets: Sequence[Any]) -> Sequence[Any]:
    """The budgets of an entry."""
    chosen = budgets if config.budgets is None else config.budgets
    if not chosen:
        hint = "add budget=64, or budgets to the experiment"
        raise InvalidValueError(f"arm '{config.selector}' has no budget: {hint}")
    return chosen


def parse_budget(value: Any, n_visual: int | None) -> Budget:
    """Parse a budget. If N depends on the image, a count becomes an upper bound ("at most").

    Raises:
        InvalidValueError: not a budget, a count above `n_visual`, or a budget per frame, as tasks have images.
    """
    budget = Budget.parse(value)
    budget.refuse_frames()
    if n_visual is not None:
        budget.resolve(n_visual)
    elif budget.count is not None and budget.per != "tile":  # a tile that has fewer keeps all by itself
        # One small image among thousands must not end the run.
        return dataclasses.replace(budget, at_most=True)
    return budget


def _name(config: ArmConfig, selector: Any) -> str:
    """What a table calls an entry: its label, or the selector with the options that were given.

    Options in `selector.always_named` stand there also by default, as they make it another method.
    """
    named = {name: getattr(selector, name) for name in getattr(selector, "always_named", ())}
    options = {**named, **config.options}
    positions = [] if config.positions is None else [f"{config.positions} positions"]
    return config.label or " ".join(
        [config.selector, *map(_option_text, sorted(options.items())), *positions]
    )


def resolve_claims(
    claims: Sequence[ClaimConfig],
    configs: Sequence[ArmConfig],
    arms: Sequence[Arm],
    zoo: Mapping[str, Any] | None = None,
) -> list[ClaimConfig]:
    """The claims about arms of this experiment, with the rows' names on this model.

    A claim names a row without the model's own options of ZOO (`zoo multiply`), so that it holds on every model.

    Args:
        claims: entries of `claims`.
        configs: entries of `arms`, those that are left out on this model included.
        arms: the arms on this model; claims about others are left out.
        zoo: see `expand`.

    Raises:
        UnknownNameError: a claim names a row that no entry of `arms` makes.
    """
    from zoo_exp import selectors

    names = {}
    for config in configs if claims else ():
        plain, here = (
            _name(dataclasses.replace(entry, selector=name, options=options), selectors.get(name, **options))
            for entry in (config, _on_this_model(config, zoo or {}))
            for name, options in [selectors.resolve(entry.selector, entry.options)]
        )
        names[plain] = here
    there = {arm.row.removesuffix(f" @{arm.budget}") for arm in arms}
    found = []
    for claim in claims:
        for name in (claim.arm, claim.against):
            if name not in names:
                raise UnknownNameError("row in claims", name, names)
        pair = names[claim.arm], names[claim.against]
        if there.issuperset(pair):
            found.append(ClaimConfig(claim.claim, *pair))
    return found


def _check_positions(positions: str, selector: str, layer: bool) -> None:
    """Refuse unknown values of an entry's `positions`, and selectors that it has no meaning for."""
    allowed = ("contiguous", "original")
    if positions not in allowed:
        raise UnknownNameError("positions", positions, allowed)
    if layer or selector in WITHOUT_BUDGET:
        own = f"set selector option positions={positions}" if layer else "remove positions"
        raise InvalidValueError(f"arm '{selector}' does not prune before the language model: {own}")


def _arm(
    config: ArmConfig,
    name: str,
    counted: str | None,
    settings: Mapping[str, Any],
    budget: Budget | None,
    seed_index: int,
    source: str,
) -> Arm:
    row = name
    own = {} if counted is None else {counted: seed_index}
    options = {**config.options, **own}
    if budget is not None:
        row += f" @{budget}"
    label = f"{row} seed {seed_index}" if config.seeds > 1 else row
    placed = {} if config.positions is None else {"positions of kept tokens": config.positions}
    identifier = identity.arm_id(config.selector, {**settings, **own, **placed}, budget, seed_index, source)
    return Arm(config.selector, options, budget, seed_index, row, label, identifier, config.positions)


def _option_text(option: tuple[str, Any]) -> str:
    """An option in a label: text by its value (`multiply`), anything else with its name (`n_directions=16`)."""
    name, value = option
    return value if isinstance(value, str) else f"{name}={value}"


AUTO = "auto"
"""The family that `model.family` takes from the checkpoint's config.json."""


def family_of(path: str, revision: str | None) -> str:
    """The model type of a checkpoint, from its config.json.

    Raises:
        MissingFileError: no config.json can be read, or the hub cannot be reached and its cache has none.
    """
    if not Path(path).expanduser().is_dir():
        _check_hub(path, revision)
    from zoo_exp.models.config_file import read_config

    return str(read_config(path, path, revision).get("model_type"))


def _check_hub(path: str, revision: str | None) -> None:
    """Refuse a hub id without a cached config.json if the hub cannot be reached; before `transformers` is imported."""
    from zoo_exp.tasks import hub

    problem = hub.go_offline_if_unreachable()
    if problem is None:
        return
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(path, "config.json", revision=revision)
    except ValueError:  # no hub id: `read_config` says so
        return
    if not isinstance(found, str):
        raise MissingFileError(
            f"model '{path}': {problem}, and they have no config.json of it. Give a folder with a checkpoint, "
            "model.path=DIR, or download it where there is a network"
        )
    log.warning(problem)


def check_family(name: str) -> list[ZooExpError]:
    """Problems with the name of the model family; an empty list if there are none."""
    from zoo_exp.models.families import check_family as check

    try:
        check(name)
    except ZooExpError as error:
        return [error]
    return []


def open_tasks(names: Sequence[str]) -> tuple[list[str], list[ZooExpError]]:
    """The names of the tasks, those of files opened and named after the file; and problems with the files."""
    from zoo_exp import tasks

    opened: list[str] = []
    problems: list[ZooExpError] = []
    for name in names:
        try:
            opened.append(tasks.given(name).name if tasks.is_own_file(name) else name)
        except ZooExpError as error:
            problems.append(error)
    return opened, problems


def check_tasks(names: Sequence[str]) -> list[ZooExpError]:
    """Problems with the names of the tasks; an empty list if there are none."""
    from zoo_exp import tasks

    if not names:
        return [
            InvalidValueError("the experiment has no tasks: add task=NAME (python -m zoo_exp list tasks)")
        ]
    problems: list[ZooExpError] = []
    for name in names:
        try:
            tasks.refuse_unknown(name, presets.names("task"))
            tasks.get(name)
        except ZooExpError as error:
            problems.append(error)
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        problems.append(InvalidValueError(f"task '{repeated[0]}' is listed twice"))
    return problems


def tasks_of_split(names: Sequence[str], split: str, problems: list[ZooExpError]) -> list[str]:
    """The tasks of another split: `world2_gqa` with split `confirm` is `world2_gqa_confirm`.

    Args:
        names: tasks of an experiment.
        split: name of the split, which is the ending of such tasks.
        problems: gets a message for tasks without that split.
    """
    from zoo_exp import tasks

    known = set(tasks.available())
    lacking = [name for name in names if f"{name}_{split}" not in known]
    if not lacking:
        return [f"{name}_{split}" for name in names]
    splits = ", ".join(ending.lstrip("_") for ending in tasks.HIDDEN)
    problems.append(
        InvalidValueError(
            f"split={split}: task {lacking[0]} has no such split; tasks of world 2 (world2_gqa ...) have {splits}: "
            "remove split, or give task=NAME"
        )
    )
    return list(names)
