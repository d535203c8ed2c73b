"""From what a data set stores to a PIL image: the only place that opens images of data sets, which are untrusted."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.files import log

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read. Others may start a program (EPS: Ghostscript) or are rare and little tested."""
MAX_PIXELS = 64_000_000
"""Width times height; a few kilobytes can claim a thousand times as much and fill the memory."""
MAX_SIDE = 16_384
"""Pixels of the longer side; a processor that pads to a square needs the square of it."""
MAX_RATIO = 200
"""Longer side over shorter side, as in Qwen2.5-VL's processor; others resize the shorter side to several hundred."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation; 1 is upright."""


@dataclass(frozen=True)
class ImageFile:
    """An image that a row of a data set names by its path.

    Attributes:
        path: as in the row; relative paths are looked up in each folder.
        folders: the only folders that it may be in.
    """

    path: str
    folders: tuple[Path, ...]
    own: bool = False
    """Whether the row is one of a user's own file, and not of a downloaded data set."""

    def find(self, where: str) -> Path:
        """The file, with links resolved.

        Raises:
            InvalidValueError: the path leaves the folders, or is none.
            MissingFileError: no such file.
        """
        roots = [folder.resolve() for folder in self.folders]
        for root in roots:
            try:
                path = (root / self.path).resolve()
                inside = any(path.is_relative_to(allowed) for allowed in roots)
                regular = path.is_file()
            except (
                OSError,
                ValueError,
                RuntimeError,
            ) as error:  # NUL, a loop of links, a name that is too long
                raise InvalidValueError(
                    f"{where}: {self.path[:80]!r} is no path of a file ({error})"
                ) from None
            if not inside:
                raise InvalidValueError(
                    f"{where}: the image path {self.path[:200]!r} leads out of the data folder; images are read "
                    f"from below {self.folders[-1]} only"
                )
            if regular:
                return path
        looked = " or ".join(map(str, self.folders))
        advice = "check the path" if self.own else "download it again"
        raise MissingFileError(f"{where}: no image file {self.path[:200]!r} below {looked}; {advice}")


def located(value: Any, folders: Sequence[Path], own: bool = False) -> Any:
    """An image column's value with paths bound to the folders they may be in; stored bytes are left as they are."""
    if isinstance(value, list):
        return [located(one, folders, own) for one in value]
    if isinstance(value, ImageFile):  # of a parquet file, which has bound it already
        return replace(value, own=own)
    path = value.get("path") if isinstance(value, dict) and not value.get("bytes") else value
    return ImageFile(path, tuple(folders), own) if isinstance(path, str) else value


def decode_image(value: object, where: str) -> "Image":
    """The image in RGB, upright, at most `MAX_SIDE` pixels on the longer side.

    As in `datasets`, a photograph is turned as its EXIF orientation says. Grey values of 16 bits are scaled to 8.

    Args:
        value: What the row has in its image column: a PIL image, encoded bytes, a data set's
            `{"bytes": ..., "path": ...}`, or an `ImageFile`.
        where: Task and sample, for the error.

    Raises:
        InvalidValueError: the row has no image, a path outside its data set, or an image above `MAX_PIXELS`.
        MissingFileError: the bytes are no readable image.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        with _clear_errors(where):
            return _rgb(value, where)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        raise InvalidValueError(
            f"{where}: the image is the path {value[:200]!r}, but this data set is no folder of files: it must have "
            "the bytes"
        )
    if isinstance(value, ImageFile):
        value = value.find(where)
    if not isinstance(value, (bytes, Path)):
        raise InvalidValueError(f"{where}: expected an image, got {type(value).__name__}")
    with (
        _clear_errors(where),
        Image.open(BytesIO(value) if isinstance(value, bytes) else value, formats=FORMATS) as image,
    ):
        return _rgb(image, where)


@contextmanager
def _clear_errors(where: str) -> Iterator[None]:
    """Turn whatever Pillow raises for bad bytes into one line, and keep its warnings to itself."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InvalidValueError, MissingFileError):
        raise
    except Image.DecompressionBombError:
        raise _too_large(where, "more than 178 million") from None
    except UnidentifiedImageError:
        raise MissingFileError(
            f"{where}: the image cannot be decoded (not {', '.join(FORMATS)}, or damaged); get the file "
            "again, or convert the image"
        ) from None
    # A damaged file makes Pillow's plug-ins raise nearly anything: OSError, ValueError, SyntaxError, struct.error ...
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingFileError(
            f"{where}: the image cannot be decoded ({reason}); get the file again"
        ) from error


def _rgb(image: "Image", where: str) -> "Image":
    """Check the size before anything is decoded; then turn, scale and convert."""
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where, f"{image.width} x {image.height}")
    image.load()
    try:
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data say nothing about the orientation; the pixels are as good as before
        log.debug(f"{where}: the EXIF data cannot be read")
    return _bounded(eight_bits(image).convert("RGB"), where)


def _too_large(where: str, given: str) -> InvalidValueError:
    return InvalidValueError(
        f"{where}: the image has {given} pixels; at most {MAX_PIXELS:,} are read. Make it smaller"
    )


def eight_bits(image: "Image") -> "Image":
    """Grey values of more than 8 bits scaled to 0..255, as Pillow does for 16-bit colours; `convert` would clip them.

    16-bit integers keep their upper byte. Wider integers and floats have no fixed range: 0..1 (floats), 0..255 and
    0..65535 are told apart by the largest value, and anything else is stretched from its smallest to its largest value.
    """
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        values = (values - low) * (255 / ((high - low) or 1))
    elif high > 255:
        values = values / 257
    elif high <= 1 and image.mode == "F":
        values = values * 255
    return Image.fromarray(values.round().astype(np.uint8))


def _bounded(image: "Image", where: str) -> "Image":
    """The image with its longer side shortened to `MAX_SIDE` and `MAX_RATIO`."""
    long, short = max(image.size), min(image.size)
    bound = min(long, MAX_SIDE, MAX_RATIO * short)
    if bound == long:
        return image
    from PIL import Image

    size = (bound, image.height) if image.width == long else (image.width, bound)
    log.warning(
        f"{where}: the image of {image.width} x {image.height} pixels is resized to {size[0]} x {size[1]} "
        f"(sides of at most {MAX_SIDE} pixels and {MAX_RATIO} times the other)"
    )
    return image.resize(size, Image.Resampling.BOX)


def coco_key(image: str) -> str:
    """Key of a COCO image, from its number or its file name, which ends with the number.

    >>> coco_key("42"), coco_key("COCO_val2014_000000000042")
    ('coco/42', 'coco/42')
    """
    number = image.rsplit("_", 1)[-1]
    return f"coco/{int(number)}" if number.isdecimal() else f"coco/{image}"
