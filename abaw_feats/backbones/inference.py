"""The same network set up to run fast: folded batch norm, memory layout, precision."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from abaw_feats.backbones.class_token import keep_class_token
from abaw_feats.backbones.densenet import DenseLayer
from abaw_feats.backbones.iresnet import Block, IResNet
from abaw_seq.engine.device import full_speed

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Which batch norm directly follows which convolution or fully connected layer, and nothing else.
_FOLLOWS = {
    Block: (("conv1", "bn2"), ("conv2", "bn3")),
    IResNet: (("conv1", "bn1"), ("fc", "features")),
    DenseLayer: (("conv1", "norm2"),),
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Prepared(nn.Module):
    """A frozen encoder at a compute precision: (batch, channels, size, size) -> float32 (batch, dim)."""

    def __init__(self, module: nn.Module, *, dtype: torch.dtype, layout: torch.memory_format):
        super().__init__()
        self.module, self.dtype, self.layout = module, dtype, layout
        self.dim = module.dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(dtype=self.dtype, memory_format=self.layout)
        with self.arithmetic(x.device):
            return self.module(x).float()

    def arithmetic(self, device: torch.device) -> AbstractContextManager[None]:
        """The settings of the process that `forward` computes under; several threads must enter them together."""
        if self.dtype != torch.float32:
            return nullcontext()
        if device.type == "cuda":
            return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        return full_speed(device)


def prepare_for_inference(module: nn.Module, *, device: torch.device | str, precision: str) -> Prepared:
    """A copy of a frozen encoder, set up for a device and a precision: "fp32", "bf16" or "fp16".

    The result takes normalised (batch, channels, size, size) of float32 or the compute precision and
    gives float32 (batch, dim). Batch norm that follows a convolution or fully connected layer is folded
    into it, convolutional networks run channels-last, a ViT whose class token is wanted computes no other
    token in its last layer, convolutions on the CPU are those of `cpu_convolutions`, and fp32 means fp32
    (no TF32, no bf16 products). fp16 is meant for GPUs. On the CPU the process keeps freed memory from then on.
    """
    if module.training:
        raise ValueError("call .eval() first: batch norm can be folded only when its statistics are fixed")
    dtype = PRECISIONS[precision]
    module = keep_class_token(fold_batch_norm(copy.deepcopy(module)))
    convolutional = sum(isinstance(part, nn.Conv2d) for part in module.modules()) > 1
    layout = torch.channels_last if convolutional else torch.contiguous_format
    module = module.to(device=device, dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    if dtype != torch.float32:
        for part in module.modules():
            if isinstance(part, _NORMS):
                part.float()
    if torch.device(device).type == "cpu":
        from abaw_feats.backbones.cpu_convolutions import suit_convolutions
        from abaw_seq.cpu import keep_freed_memory

        keep_freed_memory()
        suit_convolutions(module)
    return Prepared(module, dtype=dtype, layout=layout).requires_grad_(False)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold each batch norm that directly follows a convolution or fully connected layer into it, in place.

    Exact up to rounding. Batch norm in front of a padded convolution stays: zero padding comes after it,
    so its shift is not a constant near the border. Layers of unknown networks are left alone.
    """
    for part in list(module.modules()):
        for first, norm in _FOLLOWS.get(type(part), ()):
            _fold(part, first, norm)
        if isinstance(part, Block) and part.downsample is not None:
            _fold(part.downsample, "0", "1")
        if isinstance(part, IResNet):
            _fold_into_next(part)
    return module


def _fold(parent: nn.Module, first: str, norm: str) -> None:
    layer, batch_norm = parent.get_submodule(first), parent.get_submodule(norm)
    if isinstance(batch_norm, _NORMS):
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        setattr(parent, first, fuse(layer, batch_norm))  # type: ignore[type-var]
        setattr(parent, norm, nn.Identity())


def _fold_into_next(net: IResNet) -> None:
    """The last batch norm into the fully connected layer behind it: there is no padding between them."""
    if isinstance(net.bn2, nn.Identity):
        return
    norm, layer = net.bn2, net.fc
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()  # type: ignore[union-attr]
    shift = norm.bias.double() - norm.running_mean.double() * scale  # type: ignore[union-attr]
    weight = layer.weight.double().view(layer.out_features, len(scale), -1)
    with torch.no_grad():
        layer.bias.add_((weight * shift[:, None]).sum((1, 2)))
        layer.weight.copy_((weight * scale[:, None]).flatten(1))
    net.bn2 = nn.Identity()
