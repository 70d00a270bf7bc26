import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_feats.backbones import find_spec, load, spec_from_dict
from abaw_feats.learning.masked_autoencoder import (
    DecoderConfig,
    MaskedAutoencoder,
    load_public,
    patchify,
    random_mask,
    unpatchify,
)
from abaw_feats.reading.images import preprocess
from abaw_seq.errors import UserError
from tests.parity import fixture_files

FIXTURE = "mae_vit_t16_112_pretrain"
SIZES = {"patch": 16, "width": 192, "depth": 12, "heads": 3}
PARTS = [0, 24, 48]


def small(size: int = 32, **changes) -> MaskedAutoencoder:
    torch.manual_seed(0)
    decoder = DecoderConfig(width=16, depth=1, heads=2)
    return MaskedAutoencoder(size=size, patch=8, width=16, depth=2, heads=2, decoder=decoder, **changes)


@pytest.fixture(scope="module")
def reference():
    """The fixture's network, normalised images, noise and expected outputs."""
    spec, expected = fixture_files.load(FIXTURE)
    model = MaskedAutoencoder(size=112, decoder=DecoderConfig(128, 4, 4), normalise_target=False, **SIZES).eval()
    model.load_state_dict(fixture_files.state(FIXTURE), strict=True)
    like_mae = {"preprocessing": {"size": 112, "mean": spec["input"]["mean"], "std": spec["input"]["std"]}}
    preprocessing = spec_from_dict(like_mae, start=find_spec("mae")).preprocessing
    images = preprocess(fixture_files.images(FIXTURE), preprocessing)
    return model, images, torch.from_numpy(expected["noise"]), expected


def test_loss_is_that_of_the_original_code(reference):
    model, images, noise, expected = reference
    with torch.no_grad():
        model.normalise_target = False
        assert float(model(images, noise)) == pytest.approx(float(expected["loss"]), rel=1e-5)
        model.normalise_target = True
        assert float(model(images, noise)) == pytest.approx(float(expected["loss_norm_pix"]), rel=1e-5)


def test_mask_tokens_and_pixels_are_those_of_the_original_code(reference):
    model, images, noise, expected = reference
    keep, restore, mask = random_mask(noise, 0.75)
    assert np.array_equal(mask.numpy(), expected["mask"])
    assert np.array_equal(restore.numpy(), expected["ids_restore"])
    np.testing.assert_allclose(patchify(images, 16)[:, PARTS], expected["target_tokens"], atol=1e-6)
    with torch.no_grad():
        latent = model.encode(images, keep)
        predicted = model.decode(latent, restore)
    np.testing.assert_allclose(latent[:, 0], expected["latent_cls"], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(latent[:, 1:].mean(1), expected["latent_mean"], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(predicted[:, PARTS], expected["pred_tokens"], atol=5e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 64), st.floats(0.05, 0.95), st.integers(0, 2**31))
def test_mask_hides_its_share_and_restore_inverts_the_order(patches, ratio, seed):
    noise = torch.rand(3, patches, generator=torch.Generator().manual_seed(seed))
    keep, restore, mask = random_mask(noise, ratio)
    kept = int(patches * (1 - ratio))
    assert keep.shape == (3, kept)
    assert mask.sum(1).tolist() == [patches - kept] * 3
    for row in range(3):
        assert sorted(restore[row].tolist()) == list(range(patches))
        assert not mask[row, keep[row]].any()
        assert restore[row, keep[row]].tolist() == list(range(kept))


def test_patches_are_rows_then_columns_with_channels_last():
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 48)
    assert torch.equal(patches[0, 1, :6], torch.stack([images[0, :, 0, 4], images[0, :, 0, 5]]).flatten())
    assert torch.equal(unpatchify(patches, 4), images)


def test_hidden_pixels_do_not_reach_the_encoder():
    model = small()
    noise = torch.rand(1, 16, generator=torch.Generator().manual_seed(1))
    keep, _, mask = random_mask(noise, 0.75)
    images = torch.randn(1, 3, 32, 32)
    hidden = unpatchify(mask[:, :, None].expand(-1, -1, 192), 8) > 0
    changed = torch.where(hidden, torch.randn_like(images), images)
    assert torch.equal(model.encode(images, keep), model.encode(changed, keep))
    assert not torch.equal(model(images, noise), model(changed, noise))


def test_reconstruction_keeps_visible_patches_and_undoes_the_normalisation():
    model = small().eval()
    images = torch.randn(2, 3, 32, 32)
    noise = torch.rand(2, 16)
    reconstructed, hidden = model.reconstruct(images, noise)
    assert hidden.float().mean() == 0.75
    assert torch.equal(reconstructed[~hidden.expand_as(images)], images[~hidden.expand_as(images)])
    target = patchify(images, 8)
    standardised = (patchify(reconstructed, 8) - target.mean(-1, keepdim=True)) / (
        target.var(-1, keepdim=True) + 1e-6
    ).sqrt()
    _, _, mask = random_mask(noise, 0.75)
    wanted = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (standardised - wanted) ** 2
    assert float((error.mean(-1) * mask).sum() / mask.sum()) == pytest.approx(model(images, noise).item(), rel=1e-4)


def test_starts_from_public_checkpoints_with_and_without_decoder(tmp_path):
    source = small(normalise_target=False)
    with torch.no_grad():
        source.blocks[0].norm1.bias.fill_(0.5)
        source.decoder_norm.bias.fill_(0.25)
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "whole.pth")
    encoder = {key: value for key, value in source.state_dict().items() if not key.startswith(("decoder", "mask"))}
    torch.save({"model": encoder}, tmp_path / "encoder.pth")

    whole, half = small(), small()
    load_public(whole, tmp_path / "whole.pth")
    load_public(half, tmp_path / "encoder.pth")
    assert whole.decoder_norm.bias.unique().tolist() == [0.25]
    assert half.decoder_norm.bias.unique().tolist() == [0.0]
    assert half.blocks[0].norm1.bias.unique().tolist() == [0.5]

    bigger = small(size=48)
    load_public(bigger, tmp_path / "whole.pth")
    assert bigger.pos_embed.shape == (1, 37, 16)
    torch.save({"model": {**encoder, "norm.weight": torch.ones(3)}}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match="norm.weight is 3, expected 16"):
        load_public(small(), tmp_path / "wrong.pth")


def test_checkpoint_is_a_backbone_that_computes_the_same_tokens(tmp_path):
    model = small().eval()
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    values = {"name": "t", "pooling": "gap_normed", "preprocessing": {"size": 32},
              "options": {"patch": 8, "width": 16, "depth": 2, "heads": 2}}  # fmt: skip
    encoder = load(spec_from_dict(values, start=find_spec("mae")), tmp_path / "mae.pth").module
    images = torch.randn(2, 3, 32, 32)
    everything = torch.arange(16).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(images), model.encode(images, everything)[:, 1:].mean(1), atol=1e-5, rtol=1e-5
        )
