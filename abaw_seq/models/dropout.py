"""Dropout as every model here uses it."""

from __future__ import annotations

from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, on the CPU with the cheap random numbers of `abaw_seq.cpu`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return super().forward(x)
        from abaw_seq import cpu

        return cpu.fast_dropout(x, self.p)
