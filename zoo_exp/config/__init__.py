"""From command-line overrides to an `Experiment`: schema, composition, sweeps, identity."""

from zoo_exp.config.compose import compose
from zoo_exp.config.experiment import Arm, Cell, Experiment
from zoo_exp.config.schema import (
    ArmConfig,
    CacheConfig,
    DataConfig,
    EngineConfig,
    LoggerConfig,
    ModelConfig,
    RunConfig,
    TrainerConfig,
)

__all__ = [
    "Arm",
    "ArmConfig",
    "CacheConfig",
    "Cell",
    "DataConfig",
    "EngineConfig",
    "Experiment",
    "LoggerConfig",
    "ModelConfig",
    "RunConfig",
    "TrainerConfig",
    "compose",
]
