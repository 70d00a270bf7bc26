"""The last layer of a ViT that is pooled at its class token: of the other tokens, only keys and values are needed."""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn


class ClassTokenBlock(nn.Module):
    """The class token of a `Block`'s output: (batch, tokens, width) -> (batch, 1, width).

    Five sixths of a block's arithmetic are the queries, the output projection and the MLP of the other tokens, which
    are not used; with 12 layers that is 7 % of a network.
    """

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        block, attention = self.block, self.block.attn
        seen = block.norm1(tokens)
        width = attention.attn_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        bias = (None, None) if bias is None else (bias[:width], bias[width:])
        q = self._heads(F.linear(seen[:, :1], weight[:width], bias[0]))
        k, v = (self._heads(part) for part in F.linear(seen, weight[width:], bias[1]).chunk(2, 2))
        attended = F.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
        first = tokens[:, :1] + block.ls1(attention.proj(attention.norm(attended.transpose(1, 2).flatten(2))))
        return first + block.ls2(block.mlp(block.norm2(first)))

    def _heads(self, x: Tensor) -> Tensor:
        # (batch, tokens, width) -> (batch, heads, tokens, head width)
        return x.unflatten(2, (self.block.attn.num_heads, -1)).transpose(1, 2)


def keep_class_token(module: nn.Module) -> nn.Module:
    """Let the last layer of a frozen ViT that is pooled at its class token compute that token alone, in place.

    Other networks, and those whose attention is not timm's plain one, are left as they are.
    """
    if not isinstance(module, VisionTransformer) or module.attn_pool is not None or module.global_pool != "token":
        return module
    last = module.blocks[-1]
    plain = type(last) is Block and type(last.attn) is Attention and getattr(last.attn, "gate", None) is None
    if plain and _tokenwise(module.norm):
        module.blocks[-1] = ClassTokenBlock(last)
    return module


def _tokenwise(norm: nn.Module) -> bool:
    return isinstance(norm, (nn.LayerNorm, nn.RMSNorm, nn.Identity))
