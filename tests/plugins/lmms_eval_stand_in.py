"""The few parts of lmms-eval 0.7.3 that the plug-in touches, for machines without lmms-eval."""

# ruff: noqa: D101, D102
import abc
import types
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


class CacheHook:
    def add_partial(self, attr, req, res):
        pass


class lmms(abc.ABC):
    is_simple = True

    def __init__(self):
        self._rank, self._world_size = 0, 1
        self.cache_hook, self.task_dict = CacheHook(), {}

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @classmethod
    def create_from_arg_string(cls, text, additional_config=None):
        given = dict(pair.split("=", 1) for pair in text.split(",") if pair)
        given = {key: int(value) if value.isdigit() else value for key, value in given.items()}
        return cls(**given, **{k: v for k, v in (additional_config or {}).items() if v is not None})

    def clean(self):
        for name in list(vars(self)):
            if isinstance(getattr(self, name), nn.Module):
                delattr(self, name)


def modules():
    """Module name -> module."""
    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
        "lmms_eval.api.model": {"lmms": lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
    }
    found = {}
    for name, content in contents.items():
        found[name] = types.ModuleType(name)
        vars(found[name]).update(content)
    return found
