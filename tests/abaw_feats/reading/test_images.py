"""Decoding equals Pillow's, resizing Pillow's and OpenCV's, normalising the formula."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from abaw_feats.backbones import Preprocessing, find_spec
from abaw_feats.reading.decoding import decode_image
from abaw_feats.reading.images import (
    luma,
    measure_normalisation,
    preprocess,
    resize,
    resize_in_fixed_point,
    resize_like_opencv,
    resize_like_pillow,
)

# What OpenCV gives (4.5, 4.12 and 5.0 agree) for the pattern below: cvtColor, then resize.
OPENCV_GREY_ROWS = {
    0: [48, 149, 71, 95, 167, 118, 142, 214, 88, 160, 111, 135, 207],
    10: [162, 77, 69, 163, 78, 70, 164, 79, 71, 165, 80, 72, 166],
}
OPENCV_6 = [
    [117, 112, 117, 153, 135, 131], [160, 146, 152, 132, 132, 144], [113, 97, 86, 89, 106, 121],
    [131, 146, 175, 80, 117, 101], [87, 115, 111, 138, 159, 130], [114, 132, 112, 78, 125, 119],
]  # fmt: skip
OPENCV_16_EVERY_5TH_ROW = [
    [48, 121, 108, 79, 106, 165, 129, 132, 171, 186, 90, 149, 128, 122, 155, 207],
    [161, 112, 125, 130, 94, 143, 92, 112, 109, 82, 130, 162, 137, 139, 147, 113],
    [62, 138, 133, 99, 96, 120, 129, 149, 126, 97, 178, 125, 113, 122, 120, 89],
    [162, 101, 73, 101, 150, 81, 72, 126, 129, 77, 74, 150, 109, 76, 98, 166],
]


def pattern(height: int, width: int) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :3]
    return ((y * 37 + x * 101 + c * 59 + x * y * 7) % 256).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (5 + c)) * np.cos(y / 7 + c) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def file_of(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def nchw(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None].permute(0, 3, 1, 2)


def test_lossless_files_decode_to_their_pixels():
    image = pattern(30, 20)
    for kind in ("PNG", "BMP"):
        decoded = decode_image(file_of(image, kind))
        assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, image)
    with_alpha = np.concatenate([image, np.full((30, 20, 1), 200, np.uint8)], axis=-1)
    np.testing.assert_array_equal(decode_image(file_of(with_alpha, "PNG")), image)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpegs_decode_as_with_pillow(subsampling):
    data = file_of(smooth(57, 43), "JPEG", quality=90, subsampling=subsampling)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_other_jpegs_decode_too():
    grey = smooth(40, 40)[..., 0]
    decoded = decode_image(file_of(grey, "JPEG", quality=100))
    assert (decoded[..., 0] == decoded[..., 2]).all() and np.abs(decoded[..., 0].astype(int) - grey).max() <= 2
    buffer = io.BytesIO()
    Image.fromarray(smooth(40, 40)).convert("CMYK").save(buffer, "JPEG", quality=100)
    assert np.abs(decode_image(buffer.getvalue()).astype(int) - smooth(40, 40)).mean() < 3


def test_incomplete_images_are_refused():
    jpeg, png = file_of(smooth(64, 64), "JPEG"), file_of(pattern(64, 64), "PNG")
    for data in (b"", b"\xff\xd8\xff", b"not an image", jpeg[: len(jpeg) // 2], png[: len(png) // 2], jpeg[:30]):
        with pytest.raises(ValueError, match="image"):
            decode_image(data)
    for kind in (np.int32, np.float32):
        with pytest.raises(ValueError, match=r"image has mode [IF] .* 8 or 16 bits"):
            decode_image(file_of(np.full((8, 8), 40000, kind), "TIFF"))


def test_grey_and_its_resize_equal_opencv():
    grey = luma(nchw(pattern(11, 13)))
    for row, expected in OPENCV_GREY_ROWS.items():
        assert grey[0, 0, row].tolist() == expected
    assert resize_like_opencv(grey, 6)[0, 0].tolist() == OPENCV_6
    assert resize_like_opencv(grey, 16)[0, 0, ::5].tolist() == OPENCV_16_EVERY_5TH_ROW
    square = luma(nchw(pattern(16, 16)))
    assert torch.equal(resize_like_opencv(square, 16), square)
    pairs = square.view(1, 1, 8, 2, 8, 2).int().sum((3, 5))
    assert torch.equal(resize_like_opencv(square, 8).int(), (pairs + 2) >> 2)


@settings(max_examples=25, deadline=None)
@given(source=st.integers(1, 90), side=st.integers(1, 90), resize=st.sampled_from(["bicubic", "bilinear"]))
def test_resizing_in_fixed_point_equals_pillow(source, side, resize):
    image = pattern(source, source)
    expected = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling[resize.upper()]))
    resized = resize_in_fixed_point(nchw(image), side, resize)
    np.testing.assert_array_equal(resized[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("side", "resize", "share"), [(224, "bicubic", 1e-3), (224, "bilinear", 1e-3), (64, "bicubic", 0.1)]
)
def test_resizing_on_the_cpu_is_within_two_levels_of_pillow(side, resize, share):
    image = pattern(112, 112)
    expected = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling[resize.upper()])).astype(int)
    error = np.abs(resize_like_pillow(nchw(image), side, resize)[0].permute(1, 2, 0).numpy() - expected)
    assert error.max() <= 2 and (error > 0).mean() <= share


def test_normalisation():
    images = torch.from_numpy(pattern(112, 112))[None]
    for name, by_hand in (
        ("iresnet", (images.double() - 127.5) / 127.5),
        ("mae", (images.double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])),
    ):
        pre = find_spec(name).preprocessing
        same_size = Preprocessing(112, "rgb", pre.resize, pre.scale, pre.mean, pre.std)
        torch.testing.assert_close(
            preprocess(images, same_size).double(), by_hand.permute(0, 3, 1, 2), atol=5e-6, rtol=0
        )
    grey = preprocess(images, find_spec("densenet").preprocessing)
    assert grey.shape == (1, 1, 64, 64)
    back = (grey.double() * 43.00519 + 63.987095).round().to(torch.uint8)
    assert torch.equal(back, resize_like_opencv(luma(nchw(images[0].numpy())), 64))
    assert preprocess(images, find_spec("mae").preprocessing, torch.bfloat16).dtype == torch.bfloat16


def test_a_frame_is_prepared_alike_in_any_batch():
    images = torch.from_numpy(np.stack([pattern(112, 112), smooth(112, 112), pattern(112, 112)[::-1]]))
    for name in ("mae", "densenet"):
        pre = find_spec(name).preprocessing
        assert torch.equal(preprocess(images, pre)[1:2], preprocess(images[1:2], pre))


def test_wrong_batches_are_refused():
    pre = find_spec("mae").preprocessing
    for bad in (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, 3), torch.zeros(8, 8, 3).byte()):
        with pytest.raises(ValueError, match="uint8"):
            preprocess(bad, pre)


def test_measured_normalisation_standardises_the_corpus():
    images = torch.from_numpy(np.stack([smooth(112, 112), smooth(112, 112)[::-1] // 2, pattern(112, 112)]))
    for name in ("densenet", "mae", "iresnet"):
        pre = find_spec(name).preprocessing
        measured = measure_normalisation([resize(images[:2], pre), resize(images[2:], pre)], pre)
        x = preprocess(images, measured).double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(x.mean(1), torch.zeros(len(x)).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(1, correction=0), torch.ones(len(x)).double(), atol=1e-5, rtol=0)
        assert (measured.size, measured.scale) == (pre.size, pre.scale)
    with pytest.raises(ValueError, match="no images"):
        measure_normalisation([], pre)
