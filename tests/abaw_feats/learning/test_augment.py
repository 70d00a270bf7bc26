from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_feats.backbones import find_spec, spec_from_dict
from abaw_feats.learning.augment import (
    AugmentConfig,
    augment,
    random_warps,
    sampling_grid,
    size_before_crop,
    training_views,
)
from abaw_feats.reading.images import preprocess, resize
from abaw_seq.config import from_dict
from abaw_seq.errors import UserError

STILL = AugmentConfig(
    flip=0.0, scale=(1.0, 1.0), aspect=0.0, rotation=0.0, brightness=0.0, contrast=0.0, saturation=0.0, erasing=0.0
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(**changes) -> AugmentConfig:
    return AugmentConfig(**{**STILL.__dict__, **changes})


def batch(count: int = 8, channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=seeded(9))


def test_without_changes_images_stay_as_they_are():
    images = batch()
    assert torch.equal(augment(images, STILL, generator=seeded()), images)


def test_certain_flip_mirrors_every_image():
    images = batch()
    torch.testing.assert_close(augment(images, only(flip=1.0), generator=seeded()), images.flip(-1))


def test_half_of_the_images_are_mirrored_and_the_others_are_not():
    images = batch(400, side=8)
    changed = augment(images, only(flip=0.5), generator=seeded())
    mirrored = torch.isclose(changed, images.flip(-1), atol=1e-5).flatten(1).all(1)
    same = torch.isclose(changed, images, atol=1e-5).flatten(1).all(1)
    assert torch.equal(mirrored, ~same)
    assert 160 < int(mirrored.sum()) < 240


def test_rotation_turns_without_stretching():
    warps = random_warps(100, only(rotation=30.0), generator=seeded())
    turns = warps[:, :, :2]
    torch.testing.assert_close(turns @ turns.transpose(1, 2), torch.eye(2).expand(100, 2, 2))
    degrees = torch.rad2deg(torch.atan2(turns[:, 1, 0], turns[:, 0, 0]))
    assert degrees.abs().max() <= 30
    assert degrees.min() < -20
    assert degrees.max() > 20


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.0, 1.0), st.integers(0, 2**31))
def test_crops_lie_within_the_image_and_have_the_wanted_area(low, aspect, seed):
    warps = random_warps(64, only(scale=(low, 1.0), aspect=aspect), generator=seeded(seed))
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, 1]])
    assert (corners @ warps.transpose(1, 2)).abs().max() <= 1 + 1e-5
    area = torch.linalg.det(warps[:, :, :2])
    assert area.max() <= 1 + 1e-5
    assert area.min() >= low / (1 + aspect) - 1e-5


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_sampling_grid_is_torchs(size):
    warps = random_warps(5, AugmentConfig(rotation=20.0, aspect=0.3, scale=(0.5, 1.0)), generator=seeded())
    expected = torch.nn.functional.affine_grid(warps, [5, 3, size, size], align_corners=False)
    torch.testing.assert_close(sampling_grid(warps, size), expected, atol=1e-6, rtol=0)


def test_seed_decides_the_changes():
    images, config = batch(), AugmentConfig(erasing=0.5)
    first = augment(images, config, generator=seeded(1))
    assert torch.equal(first, augment(images, config, generator=seeded(1)))
    assert not torch.equal(first, augment(images, config, generator=seeded(2)))
    assert first.shape == images.shape


def test_colour_is_an_affine_change_of_each_image():
    images = batch(4, channels=1)
    changed = augment(images, only(contrast=0.5, brightness=0.5), generator=seeded(3))
    for before, after in zip(images, changed, strict=True):
        slope = (after.std() / before.std()).item()
        assert 0.5 <= slope <= 1.5
        torch.testing.assert_close(after, (before - before.mean()) * slope + after.mean(), atol=1e-5, rtol=1e-4)
        assert abs(float(after.mean() - before.mean())) <= 0.5


def test_no_saturation_left_makes_channels_equal():
    colour = batch(200)
    grey = augment(colour, only(saturation=1.0), generator=seeded(4))
    before, after = ((images.amax(1) - images.amin(1)).flatten(1).amax(1) for images in (colour, grey))
    spread = after / before
    assert spread.min() < 0.1
    assert spread.max() > 1.8
    one = batch(2, channels=1)
    assert torch.equal(augment(one, only(saturation=1.0), generator=seeded()), one)


def test_erasing_hides_rectangles_of_the_wanted_share():
    images = torch.ones(300, 3, 20, 20)
    changed = augment(images, only(erasing=0.5, erasing_area=(0.1, 0.1)), generator=seeded(5))
    hidden = (changed == 0).float().mean((1, 2, 3))
    touched = hidden > 0
    assert 100 < int(touched.sum()) < 200
    assert 0.02 < float(hidden[touched].mean()) <= 0.12
    assert set(changed.unique().tolist()) == {0.0, 1.0}


def test_views_without_changes_are_what_extraction_computes():
    pixels = torch.randint(0, 256, (3, 40, 40, 3), generator=seeded(), dtype=torch.uint8)
    grey = spec_from_dict({"preprocessing": {"size": 24}}, start=find_spec("densenet")).preprocessing
    assert size_before_crop(24, STILL, frame_side=40) == 24
    still = training_views(resize(pixels, grey), grey, STILL, generator=seeded())
    assert torch.equal(still, preprocess(pixels, grey))
    side = size_before_crop(24, AugmentConfig(), frame_side=40)
    assert side == 30
    changed = training_views(resize(pixels, replace(grey, size=side)), grey, AugmentConfig(), generator=seeded())
    assert changed.shape == (3, 1, 24, 24)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": 1.5}, r"flip must be a number in \[0, 1\], not 1\.5"),
        ({"scale": [1.0, 0.5]}, "scale must be two rising shares"),
        ({"rotaton": 3.0}, "did you mean rotation"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(AugmentConfig, values, where="a.yaml")
