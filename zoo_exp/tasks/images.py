"""From what a data set stores to a PIL image."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp.errors import InvalidValueError, MissingFileError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode_image(value: object, where: str) -> "Image":
    """The image in RGB and upright, from a PIL image, encoded bytes, or a data set's `{"bytes": ..., "path": ...}`.

    Args:
        value: What the row has in its image column.
        where: Task and sample, for the error.

    Raises:
        InvalidValueError: the row has no image.
        MissingFileError: the bytes are no readable image.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        value = Path(value)
    if not isinstance(value, (bytes, Path)):
        raise InvalidValueError(f"{where}: expected an image, got {type(value).__name__}")
    try:
        with Image.open(BytesIO(value) if isinstance(value, bytes) else value) as image:
            return upright(image).convert("RGB")
    except OSError as error:
        raise MissingFileError(
            f"{where}: the image cannot be decoded ({error}); download the data set's files again"
        ) from error


def upright(image: "Image") -> "Image":
    """The image as its EXIF orientation says that it is to be seen, as `datasets` decodes it."""
    from PIL import ExifTags, ImageOps

    if image.getexif().get(ExifTags.Base.Orientation) is None:
        return image
    return ImageOps.exif_transpose(image)
