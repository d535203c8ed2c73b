"""Strategies that decide which visual tokens stay: one file per method, found by name."""

from zoo_exp.selectors.registry import SelectorInfo, available, describe, get, register

__all__ = ["SelectorInfo", "available", "describe", "get", "register"]
