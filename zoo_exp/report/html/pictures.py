"""Every raster picture of the page once, however many galleries show it, inside a budget of bytes."""

import base64
import hashlib
import io
import json

from PIL import Image


class Pictures:
    """Pictures of a page, by number.

    Args:
        pixels: longest side; a larger picture is made smaller.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._number: dict[str, int] = {}
        self._urls: list[str] = []

    def add(self, image: Image.Image) -> int:
        """The number of a picture; the same pixels have the same number."""
        small = image.convert("RGB")
        if max(small.size) > self._pixels:
            small = small.copy()
            small.thumbnail((self._pixels, self._pixels))
        digest = hashlib.sha256(repr(small.size).encode() + small.tobytes()).hexdigest()
        if digest not in self._number:
            self._number[digest] = len(self._urls)
            self._urls.append(data_url(small))
        return self._number[digest]

    def __len__(self) -> int:
        return len(self._urls)

    def element(self) -> str:
        """The element that holds them, for the page's script."""
        return f'<script type="application/json" id="pictures">{json.dumps(self._urls)}</script>'


def data_url(image: Image.Image) -> str:
    """The picture as the shorter of a lossless and a lossy file: drawings are PNG, photographs JPEG."""
    files = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80, "optimize": True})):
        buffer = io.BytesIO()
        image.save(buffer, format=kind.upper(), **options)
        files.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    png, jpeg = files
    # Sharp edges matter more than bytes where pictures are small.
    _, kind, data = png if max(image.size) <= 128 and png[0] < 40_000 else min(png, jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
