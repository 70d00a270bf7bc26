"""From the bytes of an image file to its pixels, upright and with 8 bits per channel.

Decoder processes import this file: it needs no torch.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

log = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
# Formats of pictures alone. Pillow opens others with programs (EPS, WMF) or with libraries that are plugged in.
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "JPEG2000", "PPM", "AVIF", "QOI", "SGI", "PCX")
_JPEG_START = b"\xff\xd8\xff"
_EXIF_START = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
# The orientations of EXIF (CIPA DC-008, tag 0x0112) as (swap rows and columns, then flip rows, then flip columns).
_TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Unreadable:
    """What stands in place of a frame that cannot be read."""

    reason: str


def decode_image(data: bytes) -> np.ndarray:
    """Decode a JPEG, PNG or other image file: uint8 (height, width, 3), RGB, contiguous, turned upright.

    Of 16 bits per channel the higher 8 are taken, which is logged once. Of an animation the first picture is taken.
    Raises ValueError, with the reason, if it is not a complete, readable image of one of `FORMATS`. JPEGs are
    decoded without holding the GIL.
    """
    if data[:3] == _JPEG_START:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS:
                pixels = simplejpeg.decode_jpeg(data, "RGB")
                return turn(pixels, *_TURNS.get(_orientation_of_jpeg(data), ())) if _has_exif(data) else pixels
        except ValueError:
            pass  # Pillow reads more kinds of JPEG (CMYK, stray bytes) and refuses truncated ones too
    return _decode_with_pillow(data)


def decoded_bytes(path: str) -> int:
    """Size in bytes of an image file's pixels by its header; 1 if it cannot be read."""
    try:
        with Image.open(path, formats=_formats()) as image:
            return image.width * image.height * 3
    except Exception:  # a header at a time is the unit of work, and a damaged one ends Pillow's readers in any error
        return 1


def turn(pixels: np.ndarray, swap: bool = False, flip_rows: bool = False, flip_columns: bool = False) -> np.ndarray:
    """(height, width, channels) with rows and columns swapped, then flipped; contiguous."""
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _decode_with_pillow(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            if not (refusal := _refusal(image)):
                pixels, orientation = _loaded(image)
    except UnidentifiedImageError:
        raise ValueError(f"not an image of a known format{_named_format(data)}") from None
    except Exception as error:  # an image is the unit of work, and a damaged one ends Pillow's readers in any error
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"unreadable image: {text}") from None
    if refusal:
        raise ValueError(refusal)
    return turn(pixels, *_TURNS.get(orientation, ()))


def _refusal(image: Image.Image) -> str:
    """Why a picture that is not loaded yet is not taken, if so."""
    if image.width * image.height > MAX_PIXELS:
        return f"image of {image.width} x {image.height} pixels is too large"
    if image.mode.startswith(("I", "F")) and not _is_deep(image):
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers of more than 16 bits"
        return f"image has mode {image.mode} ({kind}); save it with 8 or 16 bits per channel"
    return ""


def _loaded(image: Image.Image) -> tuple[np.ndarray, int]:
    """(pixels uint8 (height, width, 3) as stored, EXIF orientation)."""
    if _is_deep(image):
        say_once("16-bit images are scaled to 8 bits: the higher half of each value")
    image.load()
    orientation = _orientation(image)  # after loading: a TIFF file is turned upright then
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), orientation


def _is_deep(image: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has 16 bits per channel; Pillow's raw modes say so (RGB;16B)."""
    if image.format == "PPM" or image.mode.startswith("I;16"):
        return image.mode.startswith("I")
    return image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _has_exif(data: bytes) -> bool:
    """Whether one of the application segments and comments that a JPEG starts with has EXIF data."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 10 < len(data):
        marker = data[place + 1]
        if marker == 0xE1 and data.startswith(_EXIF_START, place + 4):
            return True
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            return False
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return False


def _orientation_of_jpeg(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return _orientation(image)
    except Exception:  # as in _orientation
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data, which end Pillow's reader in any error, are no reason to refuse the picture
        return 1


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    # The reason why a frame cannot be read is told with the frame; warnings would show lines of Pillow's sources.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def say_once(remark: str) -> None:
    """Log a warning, the first time that it is given."""
    log.warning(remark)


def _named_format(data: bytes) -> str:
    starts = {b"%!PS": "PostScript", b"%PDF": "PDF", b"\xc5\xd0\xd3\xc6": "PostScript", b"\xd7\xcd\xc6\x9a": "WMF"}
    name = starts.get(data[:4]) or ("an empty file" if not data else "")
    return f" ({name})" if name else ""
