"""Selectors that a request of another program may name: by their names only, never a file of code."""

from collections.abc import Sequence

from zoo_exp import presets, selectors
from zoo_exp.config.experiment import Arm
from zoo_exp.config.schema import ArmConfig


def offered(arms: Sequence[Arm]) -> dict[str, ArmConfig]:
    """Selectors and presets by name: those of the command line with their options first, then all others.

    Args:
        arms: the arms of the command line. A selector of a file may be among them, as its user typed it.
    """
    named: dict[str, ArmConfig] = {}
    for name in dict.fromkeys([*selectors.available(), *presets.names("selector")]):
        selector, options = selectors.resolve(name)
        if name in presets.names("selector"):  # a preset may have the name of its selector, and is meant then
            preset = presets.find("selector", name) or {}
            stored = preset.get("options")
            selector, options = str(preset.get("selector", name)), stored if isinstance(stored, dict) else {}
        named[name] = ArmConfig(selector=selector, options=options)
    first: dict[str, ArmConfig] = {}
    for arm in arms:
        known = next((name for name, config in named.items() if _is(arm, config)), None)
        row = arm.row if arm.budget is None else arm.row.removesuffix(f" @{arm.budget}")
        first[known or row] = ArmConfig(selector=arm.selector, options=dict(arm.options))
    return {**first, **{name: config for name, config in named.items() if name not in first}}


def _is(arm: Arm, config: ArmConfig) -> bool:
    return (arm.selector, dict(arm.options)) == (config.selector, config.options)
