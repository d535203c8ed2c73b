"""Images of a request: data URLs, and files below one folder. Nothing is fetched from the network."""

import base64
import binascii
import re
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.serving.http_errors import invalid, short
from zoo_exp.tasks.images import ImageFile

ImageSource: TypeAlias = bytes | Path
"""An encoded image, or the file of one below the folder of the server."""

_DATA_URL = re.compile(r"data:[^;,]*(?:;[^;,]*)*;base64,", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def image_source(given: Any, place: str, root: Path | None) -> ImageSource:
    """The image of an `image_url` part.

    Args:
        given: its `image_url`.
        place: where it stands in the request, for messages.
        root: folder whose files may be named; None for none.

    Raises:
        ApiError: 400, no data URL of base64, or no file below the folder.
    """
    url = given.get("url") if isinstance(given, dict) else given
    if not isinstance(url, str) or not url:
        raise invalid(f'{place}: {{"url": "data:image/png;base64,..."}} is needed', place, "invalid_image")
    if isinstance(given, dict) and given.get("detail") not in (None, "auto", "low", "high"):
        raise invalid(
            f"{place}.detail={short(given['detail'])}: allowed are auto, low, high", f"{place}.detail"
        )
    if url[:5].lower() == "data:":
        found = _DATA_URL.match(url)
        if found is None:
            raise invalid(
                f"{place}: a data URL of an image is data:image/png;base64,...", place, "invalid_image"
            )
        try:
            data = base64.b64decode(_SPACE.sub("", url[found.end() :]), validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"{place}: the data URL is not valid base64", place, "invalid_image") from None
        if not data:
            raise invalid(f"{place}: the data URL is empty", place, "invalid_image")
        return data
    return _file(url, place, root)


def _file(url: str, place: str, root: Path | None) -> Path:
    """The file of an image: a path relative to the folder, or a file URL of a path below it."""
    scheme = url.partition(":")[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) else ""
    if scheme not in ("", "file"):
        raise invalid(
            f"{place}: nothing is fetched from the network (URL {scheme}:...): send the image as "
            "data:image/png;base64,...",
            place,
            "invalid_image",
        )
    if root is None:
        raise invalid(
            f"{place}: this server reads no files (it was started without serve.root=DIR): send the image as "
            "data:image/png;base64,...",
            place,
            "invalid_image",
        )
    path = url
    if scheme:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise invalid(f"{place}: a file URL has no host: file:///...", place, "invalid_image")
        path = unquote(parts.path)
    try:
        return ImageFile(path, (root,), own=True).find(place)
    # Messages of data sets name the folder, which is none of the client's business.
    except MissingFileError:
        raise invalid(f"{place}: no such image below the server's folder", place, "invalid_image") from None
    except InvalidValueError:
        raise invalid(
            f"{place}: the path is none below the server's folder", place, "invalid_image"
        ) from None
