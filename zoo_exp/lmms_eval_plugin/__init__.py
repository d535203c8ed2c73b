"""The plug-in for lmms-eval: `lmms-eval --model zoo_exp --model_args pretrained=...,selector=zoo,budget=64`.

lmms-eval (0.6 or newer) finds it by the entry point `lmms_eval.models`; it is no dependency of this package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "ModelManifest":
    """What lmms-eval registers: the model's name, and a class for each of its two kinds of requests."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="zoo_exp",
        simple_class_path=f"{__name__}.models.ZooExpSimple",
        chat_class_path=f"{__name__}.models.ZooExpChat",
    )
