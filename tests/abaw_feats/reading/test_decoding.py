"""Pictures of any kind come upright and with 8 bits per channel, or are refused with a reason."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageOps

from abaw_feats.reading import decoding
from abaw_feats.reading.decoding import decode_image, decoded_bytes

SHAPE = (20, 31)


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright(colours, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(Image.fromarray(colours), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = decode_image(data)
    assert decoded.shape[:2] == (SHAPE if orientation < 5 else SHAPE[::-1]) and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)


def test_a_grey_and_a_cmyk_photograph_are_turned_too(colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("L", "CMYK"):
        picture = Image.fromarray(colours).convert(mode)
        upright = decode_image(file_of(picture, "JPEG"))
        turned = decode_image(file_of(picture, "JPEG", exif=exif))
        np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def test_damaged_exif_data_do_not_cost_the_picture(colours):
    plain = file_of(Image.fromarray(colours), "JPEG")
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01" + b"\xff" * 9,
    ):
        data = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
        np.testing.assert_array_equal(decode_image(data), decode_image(plain))


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write: uint16 (height, width, 3)."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bits_become_eight_which_is_said_once(colours, caplog):
    decoding.say_once.cache_clear()
    deep = colours.astype(np.uint16) * 256 + 200
    grey = deep[..., 0]
    pgm = f"P5 {SHAPE[1]} {SHAPE[0]} 65535\n".encode() + grey.astype(">u2").tobytes()
    for data in (file_of(Image.fromarray(grey), "PNG"), file_of(Image.fromarray(grey), "TIFF"), pgm):
        decoded = decode_image(data)
        np.testing.assert_array_equal(decoded, np.repeat(colours[..., :1], 3, axis=2))
    np.testing.assert_array_equal(decode_image(sixteen_bit_png(deep)), colours)
    assert caplog.record_tuples == [
        (decoding.__name__, logging.WARNING, "16-bit images are scaled to 8 bits: the higher half of each value")
    ]


def test_eight_bits_are_not_called_sixteen(colours, caplog):
    decoding.say_once.cache_clear()
    picture = Image.fromarray(colours)
    for image, kind in ((picture, "PNG"), (picture.convert("RGBA"), "TIFF"), (picture, "PPM"), (picture, "BMP")):
        np.testing.assert_array_equal(decode_image(file_of(image, kind)), colours)
    assert not caplog.records


def test_palettes_transparency_and_single_bits_keep_their_colours(colours):
    picture = Image.fromarray(colours)
    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(file_of(palette, "PNG")), expected)
    np.testing.assert_array_equal(decode_image(file_of(palette, "PNG", transparency=bytes(range(256)))), expected)
    np.testing.assert_array_equal(decode_image(file_of(palette, "GIF")), expected)
    grey = picture.convert("LA")
    np.testing.assert_array_equal(decode_image(file_of(grey, "PNG")), np.array(grey.convert("L").convert("RGB")))
    bits = picture.convert("1")
    np.testing.assert_array_equal(decode_image(file_of(bits, "PNG")), np.array(bits.convert("RGB")))
    cmyk = picture.convert("CMYK")
    np.testing.assert_array_equal(decode_image(file_of(cmyk, "TIFF")), np.array(cmyk.convert("RGB")))


def test_files_that_start_programs_are_not_opened(colours, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    eps = file_of(Image.fromarray(colours), "EPS")
    binary_eps = b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + len(eps).to_bytes(4, "little") + bytes(20) + eps
    wmf = b"\xd7\xcd\xc6\x9a\0\0" + bytes(16) + b"\x01\0\x09\0" + bytes(40)
    for data, name in ((eps, "PostScript"), (binary_eps, "PostScript"), (wmf, "WMF"), (b"%PDF-1.7\n", "PDF")):
        with pytest.raises(ValueError, match=f"not an image of a known format .{name}"):
            decode_image(data)
    with pytest.raises(ValueError, match="an empty file"):
        decode_image(b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "GIF", "TIFF"])
def test_pictures_that_claim_to_be_huge_are_refused_before_they_take_memory(kind, colours, tmp_path):
    data = bytearray(file_of(Image.fromarray(colours), kind))
    sides = {"PNG": (16, ">I"), "BMP": (18, "<I"), "GIF": (6, "<H"), "JPEG": (data.find(b"\xff\xc0") + 5, ">H")}
    if kind == "TIFF":
        place, order = data.find(b"\0\1\x04\0") if b"\0\1\x04\0" in data else -1, "<I"
        entries = int.from_bytes(data[4:8], "little")
        for k in range(int.from_bytes(data[entries : entries + 2], "little")):
            place = entries + 2 + 12 * k
            if data[place : place + 2] in (b"\0\1", b"\1\1"):
                data[place + 2 : place + 4] = b"\4\0"
                data[place + 8 : place + 12] = (60_000).to_bytes(4, "little")
    else:
        place, order = sides[kind]
        size = 4 if order[1] == "I" else 2
        for start in (place, place + size):
            data[start : start + size] = (60_000).to_bytes(size, "big" if order[0] == ">" else "little")
    with pytest.raises(ValueError, match=r"image") as error:
        decode_image(bytes(data))
    assert "\n" not in str(error.value)


def test_the_size_of_pixels_comes_from_the_header(colours, tmp_path):
    path = tmp_path / "00001.jpg"
    path.write_bytes(file_of(Image.fromarray(colours), "JPEG"))
    assert decoded_bytes(str(path)) == colours.nbytes
    path.write_bytes(b"no picture")
    assert decoded_bytes(str(path)) == decoded_bytes(str(tmp_path / "absent.jpg")) == 1
