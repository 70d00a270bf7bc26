"""From the bytes of an image file to pixels. Decoder processes import this file: it needs no torch."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 64_000_000
_JPEG_START = b"\xff\xd8\xff"


def decode_image(data: bytes) -> np.ndarray:
    """Decode a JPEG, PNG or other image file: uint8 (height, width, 3), RGB, contiguous.

    Raises ValueError if it is not a complete, readable image. JPEGs are decoded without holding the GIL.
    """
    if data[:3] == _JPEG_START:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS:
                return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass  # Pillow reads more kinds of JPEG (CMYK, stray bytes) and refuses truncated ones too
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"image of {image.width} x {image.height} pixels is too large")
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"image has mode {image.mode}, not 8 bits per channel")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError("not an image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"unreadable image: {error}") from None
