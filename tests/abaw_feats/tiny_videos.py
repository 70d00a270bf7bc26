"""Small frames, videos and networks for the tests of extraction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TINY_VIT = """
name: tiny
like: mae
options: {patch: 8, width: 16, depth: 1, heads: 2}
preprocessing: {size: 32}
"""
TINY_DENSENET = """
name: grey
like: densenet
options: {blocks: [1, 1, 1], growth: 4}
preprocessing: {size: 32}
"""


def write_networks(folder: Path) -> tuple[Path, Path]:
    """Two backbones as YAML files: a colour ViT of 16 features, a grey DenseNet."""
    tiny, grey = folder / "tiny.yaml", folder / "grey.yaml"
    tiny.write_text(TINY_VIT)
    grey.write_text(TINY_DENSENET)
    return tiny, grey


def picture(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A smooth random image of a (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def write_frames(folder: Path, numbers, seed: int = 0, suffix: str = ".png", size=(48, 48)) -> Path:
    """Numbered frames 00001.png ... in a new folder."""
    folder.mkdir(parents=True)
    for number in numbers:
        picture(seed * 100_003 + number, size).save(folder / f"{number:05d}{suffix}")
    return folder


def write_video(path: Path, frames: int, size: tuple[int, int] = (64, 48), rate: int = 25) -> Path:
    """A video file of flat frames that get brighter: frame k has value 10 k."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for k in range(1, frames + 1):
            pixels = np.full((size[1], size[0], 3), 10 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_noisy_video(
    path: Path, codec: str, options: dict[str, str], *, frames: int = 40, times=None, sound: float = 0
) -> Path:
    """A noisy video, so that every frame takes some bytes, with `sound` seconds of silence beside it."""
    import av

    size = (64, 48)
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.options = {"crf": "5", "g": "10"} if codec == "libx264" else {}
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        audio = container.add_stream("aac", rate=8000) if sound else None
        for k in range(frames):
            pixels = np.full((*size[::-1], 3), 5 * k, np.uint8) + rng.integers(0, 40, (*size[::-1], 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts = times(k)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, round(8000 * sound)), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path
