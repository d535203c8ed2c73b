"""The plug-in for lmms-eval: `lmms-eval --model zoo_exp --model_args pretrained=...,selector=zoo,budget=64`.

lmms-eval (0.6 or newer) loads it through the entry point `lmms_eval.models`; it is not a dependency of this package.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "ModelManifest":
    """Manifest for lmms-eval: the model id, and a class for each kind of request."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="zoo_exp",
        simple_class_path=f"{__name__}.models.ZooExpSimple",
        chat_class_path=f"{__name__}.models.ZooExpChat",
    )
