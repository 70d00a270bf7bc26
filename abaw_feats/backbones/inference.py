"""The same network set up to run fast: folded batch norm, memory layout, precision."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from abaw_feats.backbones.class_token import keep_class_token
from abaw_feats.backbones.cpu_convolutions import suit_convolutions
from abaw_feats.backbones.densenet import DenseLayer
from abaw_feats.backbones.iresnet import Block, IResNet
from abaw_seq.cpu.products import fast_products

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
        """The process's settings that `forward` computes under; several threads must enter them together."""
        return _true_fp32(device) if self.dtype == torch.float32 else nullcontext()


def prepare_for_inference(module: nn.Module, *, device: torch.device | str, precision: str) -> Prepared:
    """A copy of a frozen encoder, set up for a device and a precision: "fp32", "bf16" or "fp16".

    The result takes normalised (batch, channels, size, size) of float32 or the compute precision and
    gives float32 (batch, dim). Batch norm that follows a convolution or fully connected layer is folded
    into it, convolutional networks run channels-last, the last layer of a ViT whose class token is wanted
    computes no other token, convolutions on the CPU are those of `cpu_convolutions`, and fp32 means fp32
    (no TF32, no bf16 products).

    Largest cosine distance from the plain fp32 network over the fixtures in tests/parity and random
    weights (MAE ViT-B, IResNet-18/50/100, DenseNet, EfficientNet-B0/B2, DINO ViT-S), on the CPU:
    fp32 5e-12, bf16 1.3e-4 (IResNet-100; the ViTs up to 7e-5, DenseNet 1.4e-5), fp16 2.4e-5 (EfficientNet;
    the others up to 2e-6). Speed against that network, one core of an AMD EPYC with AVX-512 bf16, batches
    of 8: ViT-B 1.2 in fp32 and 1.9 in bf16, IResNet-100 1.2 and 2.1, DenseNet 1.2 and 2.0. fp16 is
    meant for GPUs: CPUs without native fp16 take 4 to 10 times as long as in fp32.
    """
    if module.training:
        raise ValueError("call .eval() first: batch norm can be folded only when its statistics are fixed")
    dtype = PRECISIONS[precision]
    module = keep_class_token(fold_batch_norm(copy.deepcopy(module)))
    convolutional = sum(isinstance(part, nn.Conv2d) for part in module.modules()) > 1
    layout = torch.channels_last if convolutional else torch.contiguous_format
    module = module.to(device=device, dtype=dtype, memory_format=layout)
    if dtype != torch.float32:
        for part in module.modules():
            if isinstance(part, _NORMS):
                part.float()
    if torch.device(device).type == "cpu":
        suit_convolutions(module)
    return Prepared(module, dtype=dtype, layout=layout).requires_grad_(False)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Fold each batch norm that directly follows a convolution or fully connected layer into it, in place.

    Exact up to rounding. Batch norm in front of a padded convolution stays: padding with zeros comes
    after it, so its shift is no constant near the border. Layers of unknown networks are left alone.
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
        setattr(parent, first, fuse(layer, batch_norm))
        setattr(parent, norm, nn.Identity())


def _fold_into_next(net: IResNet) -> None:
    """The last batch norm into the fully connected layer behind it: there is no padding between them."""
    if isinstance(net.bn2, nn.Identity):
        return
    norm, layer = net.bn2, net.fc
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = layer.weight.double().view(layer.out_features, len(scale), -1)
    with torch.no_grad():
        layer.bias.add_((weight * shift[:, None]).sum((1, 2)))
        layer.weight.copy_((weight * scale[:, None]).flatten(1))
    net.bn2 = nn.Identity()


def _true_fp32(device: torch.device) -> AbstractContextManager[None]:
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return fast_products(device)
