"""Images of every mode and odd size, from our own door to the image processors of the families."""

import io

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from zoo_exp.errors import InvalidValueError
from zoo_exp.lmms_eval_plugin.turns import from_context
from zoo_exp.tasks.images import decode_image

SIZES = ((1, 1), (3, 200), (17, 31))
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
PROCESSORS = {
    "CLIPImageProcessor": 224,
    "SiglipImageProcessor": 224,
    "Gemma3ImageProcessor": 224,
    "GotOcr2ImageProcessor": 384,  # InternVL
    "LlavaNextImageProcessor": 224,
    "LlavaOnevisionImageProcessor": 384,
    "PixtralImageProcessor": None,
    "Qwen2VLImageProcessor": None,
}
"""Image processor -> side of the images that it gives; None if it depends on the image."""


def drawn(mode, size=(17, 31)):
    """A grey ramp in a mode, and its values in 8 bits."""
    width, height = size
    ramp = np.linspace(0, 255, width * height).round().astype(np.uint8).reshape(height, width)
    grey = Image.fromarray(ramp)
    if mode == "1":
        return grey.convert("1", dither=Image.Dither.NONE), np.where(ramp >= 128, 255, 0)
    if mode == "PA":
        return Image.merge("LA", [grey, Image.new("L", size, 255)]).convert("PA"), ramp
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257), ramp
    if mode == "I":
        return Image.fromarray(ramp.astype(np.int32) * 257), ramp
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32) / 255), ramp
    return (grey if mode == "P" else grey.convert("RGB")).convert(mode), ramp


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_has_its_grey_values(mode):
    image, values = drawn(mode)
    assert image.mode == mode
    near = 2 if mode in ("P", "PA") else 1
    turn = from_context("look", [image], "a")
    for got in (decode_image(stored(image), "here"), turn.images[0]):
        assert (got.mode, got.size) == ("RGB", image.size)
        assert np.abs(np.asarray(got).astype(int) - values[..., None]).max() <= near


def stored(image):
    """An image as a data set holds it."""
    kind = {"PA": None, "CMYK": "TIFF", "I": "TIFF", "F": "TIFF"}.get(image.mode, "PNG")
    if kind is None:  # no file format has this mode
        return image
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("name", PROCESSORS)
def test_image_processors_take_odd_sizes(name):
    side = PROCESSORS[name]
    processor = getattr(transformers, name)()
    for size in SIZES:
        image = decode_image(stored(drawn("L", size)[0]), "here")
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        assert torch.isfinite(pixels).all()
        assert pixels.std() > 0 or size == (1, 1)
        if side is not None:
            assert pixels.shape[-1] == side


def test_what_is_no_image_is_refused():
    with pytest.raises(InvalidValueError, match="expected an image, got list"):
        from_context("look", [[1, 2]], "a")
