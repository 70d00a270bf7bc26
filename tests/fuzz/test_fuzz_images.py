"""Damaged images and video files: read, or refused with one reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from abaw_feats.reading.decoding import decode_image, decoded_bytes
from abaw_feats.reading.video_file import Unreadable, decode_video, video_header
from abaw_seq.errors import UserError
from tests.abaw_feats.tiny_videos import picture, write_noisy_video
from tests.fuzz.changes import changed_bytes, read_or_refused

IMAGES = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
VIDEOS = {
    "a.mp4": "libx264",
    "a.mkv": "libx264",
    "a.avi": "mpeg4",
    "a.webm": "libvpx",
    "a.ts": "libx264",
    "a.wmv": "wmv2",
}


def image_of(kind: str) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1).save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images_are_read_or_refused(kind, cases, tmp_path):
    whole = image_of(kind)
    for name, rng in cases:
        data = changed_bytes(whole, rng)
        with read_or_refused(f"{kind}, {name}"):
            (tmp_path / "image").write_bytes(data)
            assert decoded_bytes(str(tmp_path / "image")) >= 0
            try:
                pixels = decode_image(data)
            except ValueError as error:
                raise UserError(str(error)) from None
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@pytest.mark.parametrize("name", VIDEOS)
def test_damaged_video_files_are_read_or_refused(name, cases, tmp_path):
    path = write_noisy_video(tmp_path / name, VIDEOS[name], {}, frames=12)
    whole = path.read_bytes()
    for case, rng in cases:
        path.write_bytes(changed_bytes(whole, rng))
        with read_or_refused(f"{name}, {case}"):
            assert video_header(path)[0] >= 0
            try:
                for frame in decode_video(path):
                    assert isinstance(frame, Unreadable) or frame.shape[2] == 3
            except (ValueError, OSError) as error:
                raise UserError(str(error)) from None
