"""The masked autoencoder of He et al. (CVPR 2022): an encoder that sees a quarter of an image's patches, and a
small decoder that reconstructs the rest.

Parameter names, arithmetic and the order of pixels within a patch are those of facebookresearch/mae
(models_mae.py), so that each reads the other's checkpoints. The encoder is the ViT of `backbones.mae`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from abaw_feats.backbones.checkpoint import fit, read_checkpoint, strip_prefix
from abaw_feats.backbones.mae import LAYER_NORM_EPS, build_vit, resize_positions, sincos_positions
from abaw_feats.backbones.weights import named_file
from abaw_seq.config.ranges import Checked, Heads, Layers, Width


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """Sizes of the decoder; the defaults are those of the published ViT-B, L and H."""

    width: Width = 512
    """Width of a token, a multiple of 4 and of `heads`."""
    depth: Layers = 8
    """Number of blocks."""
    heads: Heads = 16
    """Attention heads."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of 4 and of the {self.heads} heads, not {self.width}")


class MaskedAutoencoder(nn.Module):
    """Encoder and decoder; `forward` gives the reconstruction loss of a batch.

    vit: size, patch, width, depth, heads, mlp_ratio of the encoder, as for `build_vit`; normalise_target: the decoder
    predicts pixels standardised within each patch.
    """

    def __init__(self, *, decoder: DecoderConfig = DecoderConfig(), normalise_target: bool = True, **vit: Any):
        super().__init__()
        encoder = build_vit(**vit, pooling="cls")
        self.patch = encoder.patch_embed.patch_size[0]
        self.grid = encoder.patch_embed.grid_size[0]
        self.normalise_target = normalise_target
        self.patch_embed = encoder.patch_embed
        self.cls_token = encoder.cls_token
        self.pos_embed = encoder.pos_embed
        self.blocks = encoder.blocks
        self.norm = encoder.norm

        norm = partial(nn.LayerNorm, eps=LAYER_NORM_EPS)
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.grid**2 + 1, decoder.width))
        self.decoder_blocks = nn.Sequential(*(
            Block(decoder.width, decoder.heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(decoder.depth)
        ))  # fmt: skip
        self.decoder_norm = norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, self.patch**2 * 3)
        self._initialise()

    def _initialise(self) -> None:
        for embedding in (self.pos_embed, self.decoder_pos_embed):
            if embedding.is_meta:
                continue
            table = torch.from_numpy(sincos_positions(embedding.shape[-1], self.grid))
            embedding.requires_grad_(False).copy_(table)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # a LayerNorm starts with ones and zeros by itself
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(len(projection), -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, noise: Tensor, mask_ratio: float = 0.75) -> Tensor:
        """The loss, a scalar: the mean squared error over the hidden patches.

        images: (batch, 3, size, size), normalised; noise: (batch, patches) in [0, 1), see `random_mask`.
        """
        keep, restore, mask = random_mask(noise, mask_ratio)
        predicted = self.decode(self.encode(images, keep), restore)
        return self.loss(images, predicted, mask)

    def encode(self, images: Tensor, keep: Tensor) -> Tensor:
        """Tokens of the visible patches, class token first: (batch, 1 + kept, width).

        keep: (batch, kept) indices of the visible patches.
        """
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        tokens = tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[-1]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([first, tokens], dim=1)
        return self.norm(self.blocks(tokens))

    def decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Pixels of every patch, (batch, patches, patch * patch * 3), from the tokens that `encode` gives.

        restore: (batch, patches), the place of each patch in the order that `random_mask` draws.
        """
        tokens = self.decoder_embed(tokens)
        count, patches = restore.shape
        hidden = self.mask_token.to(tokens.dtype).expand(count, patches + 1 - tokens.shape[1], -1)
        rest = torch.cat([tokens[:, 1:], hidden], dim=1)
        rest = rest.gather(1, restore[:, :, None].expand(-1, -1, rest.shape[-1]))
        tokens = torch.cat([tokens[:, :1], rest], dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))[:, 1:]

    def loss(self, images: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
        """The mean squared error over the hidden patches of a batch; mask: (batch, patches), 1 = hidden."""
        target = patchify(images, self.patch)
        if self.normalise_target:
            target = target - target.mean(dim=-1, keepdim=True)
            variance = target.square().sum(dim=-1, keepdim=True) / (target.shape[-1] - 1)
            target = target * (variance + 1e-6).rsqrt()
        error = F.mse_loss(predicted.float(), target.float(), reduction="none").mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    @torch.no_grad()
    def reconstruct(self, images: Tensor, noise: Tensor, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor]:
        """(reconstruction, hidden): images with only the hidden patches predicted, and bool (batch, 1, size, size)."""
        keep, restore, mask = random_mask(noise, mask_ratio)
        predicted = self.decode(self.encode(images, keep), restore).float()
        target = patchify(images, self.patch)
        if self.normalise_target:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            predicted = predicted * (variance + 1e-6).sqrt() + mean
        patches = torch.where(mask[:, :, None] > 0, predicted, target)
        hidden = mask[:, :, None].expand(-1, -1, self.patch**2 * 3)
        return unpatchify(patches, self.patch), unpatchify(hidden, self.patch)[:, :1] > 0


def random_mask(noise: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw an order of the patches, by rising noise, of which the first stay visible.

    noise: (batch, patches). Returns keep (batch, kept), the visible patches in that order; restore (batch,
    patches), the place of each patch in it; and mask (batch, patches) float, 1 = hidden.
    """
    patches = noise.shape[1]
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(dim=1)
    kept = int(patches * (1 - ratio))
    mask = (restore >= kept).to(noise.dtype)
    return order[:, :kept], restore, mask


def patchify(images: Tensor, patch: int) -> Tensor:
    """(batch, channels, height, width) -> (batch, patches, patch * patch * channels), channel last."""
    count, channels, height, width = images.shape
    cells = images.reshape(count, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify` for square images."""
    count, cells, values = patches.shape
    grid, channels = round(cells**0.5), values // patch**2
    images = patches.reshape(count, grid, grid, patch, patch, channels).permute(0, 5, 1, 3, 2, 4)
    return images.reshape(count, channels, grid * patch, grid * patch)


def load_public(model: MaskedAutoencoder, path: str | Path) -> None:
    """Load a checkpoint in the public format, to train on from it.

    Position embeddings are resized to the model's grid. If the checkpoint has no decoder, the model's
    stays as it is. `path` may be FILE:SET, as for `backbones.load`. Raises UserError if the encoder does not fit.
    """
    expected = model.state_dict()
    file = named_file(str(path))
    state, _ = strip_prefix(read_checkpoint(file.path, file.chosen), expected)
    for key in ("pos_embed", "decoder_pos_embed"):
        if key in state:
            state[key] = resize_positions(state[key], model.grid)
    if not any(key.startswith("decoder_blocks.") for key in state):
        own = {key: value for key, value in expected.items() if key.startswith(("decoder_", "mask_token"))}
        state = {**own, **state}
    fit(model, state, may_be_left=(r"head\..*",), what=f"{path}: weights to start from")
