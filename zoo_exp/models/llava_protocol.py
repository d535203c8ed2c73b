"""The protocol of LLaVA's own code: Vicuna's conversation with its system sentence, and square images.

The published tables come from LLaVA's code, which lmms-eval runs as `--model llava`. It differs in three ways from the
processors of `transformers`:

* prompts follow the conversation template `vicuna_v1` (`llava/conversation.py`), which starts with a system sentence;
* LLaVA-1.5 pads an image to a square with the mean colour (`expand2square` in `llava/mm_utils.py`), where the processor
  cuts off what is outside the central square: a third of the width of a 640 x 427 image;
* LLaVA-NeXT's code reads the sizes of its canvases as width x height, `transformers` reads the same list as height x
  width. The first of equally good canvases is taken, so that images below 336 x 336 pixels get a tall canvas there and
  a wide one here: 976 and 1464 visual tokens for 300 x 200 pixels. Larger images are cut into the same tiles
  (`process_anyres_image`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from PIL.Image import Image

PROTOCOLS = ("hf", "llava")
PADDED, TILED = "llava", "llava_next"
"""Model types that the protocol is for: LLaVA-1.5, whose images are padded, and LLaVA-NeXT."""
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""`conv_vicuna_v1.system` in `llava/conversation.py`."""
VICUNA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% if messages[0]['content'] is string %}{{ messages[0]['content'] }}"
    "{% else %}{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% else %}" + SYSTEM.replace("'", '{{ "\'" }}') + "{% endif %}{{ ' ' }}"
    "{% for message in messages if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% set ns = namespace(leading=true) %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ ('' if loop.first else ' ') + '<image>' }}"
    "{% else %}{{ ('' if loop.first else '\\n' if ns.leading else ' ') + part['text'] }}{% set ns.leading = false %}"
    "{% endif %}{% endfor %}{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""`vicuna_v1` as a chat template. Leading images are joined by blanks, and a newline follows (lmms-eval's `llava`)."""
_PROBE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "word"}]}]


def describe(protocol: str, model_type: str) -> str:
    """The protocol of a model in one sentence; for LLaVA with `hf`, also what the published numbers follow."""
    if protocol == "llava":
        images = "images padded to squares" if model_type == PADDED else "the first of equal canvases is tall"
        return f"protocol llava: prompts of LLaVA's own code, with its system sentence; {images}"
    more = "; published numbers follow protocol=llava" if model_type in (PADDED, TILED) else ""
    return f"protocol hf: the checkpoint's chat template and image processor{more}"


class SquareImages:
    """An image processor that pads images to squares first, with the mean colour of its normalisation.

    Args:
        inner: the image processor; everything else about it stays.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.colour = tuple(int(255 * mean) for mean in inner.image_mean)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """The inner processor's output for the padded images."""
        return self.inner(self._square(images), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while pickle makes the object
            raise AttributeError(name)
        return getattr(self.inner, name)

    def _square(self, images: Any) -> Any:
        if isinstance(images, (list, tuple)):
            return [self._square(image) for image in images]
        return square(images.convert("RGB"), self.colour)


def square(image: "Image", colour: Sequence[int]) -> "Image":
    """The image in the centre of a square of its longer side (`expand2square`).

    Args:
        image: any RGB image.
        colour: of the border, 0 to 255.
    """
    from PIL import Image

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    padded = Image.new("RGB", (side, side), tuple(colour))
    padded.paste(image, ((side - width) // 2, (side - height) // 2))
    return padded


def check_protocol(protocol: str, model_type: str, name: str) -> None:
    """Refuse an unknown protocol, and LLaVA's for another family.

    Raises:
        UnknownNameError: an unknown protocol.
        InvalidValueError: the protocol `llava` for a model of another family.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    if protocol == "llava" and model_type not in (PADDED, TILED, "auto"):
        raise InvalidValueError(
            f"model '{name}': protocol llava is for LLaVA-1.5 and LLaVA-NeXT, and this is a {model_type}: type "
            "model.protocol=hf"
        )


def use_protocol(processor: Any, config: Any, name: str, protocol: str) -> None:
    """Set up a processor for a protocol; `hf` leaves it as it is.

    Args:
        processor: of the checkpoint; its chat template and image processor are replaced.
        config: of the model; the canvases of LLaVA-NeXT are turned, for the model as for its processor.
        name: of the model, for the error.
        protocol: one of `PROTOCOLS`.

    Raises:
        UnknownNameError: an unknown protocol.
        InvalidValueError: a model of another family, or one that was trained on other conversations than Vicuna's.
    """
    check_protocol(protocol, config.model_type, name)
    if protocol == "hf":
        return
    if getattr(processor, "chat_template", None) is not None:
        text = str(processor.apply_chat_template(_PROBE, add_generation_prompt=True))
        if "USER:" not in text or not text.rstrip().endswith("ASSISTANT:"):
            raise InvalidValueError(
                f"model '{name}': protocol llava writes Vicuna's conversations (USER: ... ASSISTANT:), but the chat "
                f"template of the checkpoint writes {text[-60:]!r}: type model.protocol=hf"
            )
    processor.chat_template = VICUNA_TEMPLATE.replace("<image>", processor.image_token)
    images = processor.image_processor
    if config.model_type == PADDED:
        processor.image_processor = SquareImages(images)
    else:
        images.image_grid_pinpoints = [[b, a] for a, b in images.image_grid_pinpoints]
        config.image_grid_pinpoints = [[b, a] for a, b in config.image_grid_pinpoints]
