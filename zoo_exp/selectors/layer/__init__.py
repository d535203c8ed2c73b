"""Selectors that drop visual tokens between the layers of the language model."""

from zoo_exp.selectors.layer.base import LayerAnswer, LayerSelector, LayerView, Prompt

__all__ = ["LayerAnswer", "LayerSelector", "LayerView", "Prompt"]
