"""The networks at work: loaded, prepared for a device and a precision, fed with batches of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from abaw_feats.backbones import LoadedBackbone, Preprocessing, find_spec, load, prepare_for_inference
from abaw_feats.batches import Batch
from abaw_feats.images import preprocess
from abaw_seq.cpu import keep_freed_memory
from abaw_seq.data.feature_file import BackboneInfo
from abaw_seq.errors import AbawError, UserError
from abaw_seq.terminal import say

CPU_ROWS = 8
CPU_BATCHES = 4  # of so many rows that are decoded and written at once: threads change less often
GPU_ROWS = 256
Images = list[tuple[np.ndarray, Tensor]]
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Encoder:
    """One frozen network on its device.

    `rows` is how many frames it computes on at once; it is halved when memory runs out.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    device: torch.device
    rows: int

    @torch.inference_mode()
    def encode(self, images: Images, capacity: int, used: int | None = None) -> Tensor:
        """Features float32 (n, dim) of a batch's images; rows without an image hold what zeros give.

        n is `capacity`, or at least `used` if only the first so many rows are wanted: the network always
        computes on equal numbers of rows, and on no more of them than that needs.
        images: [(rows int64 (n,) rising, pixels uint8 (n, height, width, 3) on the device)].
        """
        wanted = capacity if used is None else max(used, 1)
        while True:
            rows = min(self.rows, capacity)
            try:
                parts = [self.module(self._input(images, first, rows)) for first in range(0, wanted, rows)]
                return torch.cat(parts)[:capacity].float()
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise AbawError(f"backbone {self.name}: not even one frame fits into memory") from None
            self.rows = rows // 2
            torch.cuda.empty_cache()
            say(f"{self.name}: out of memory, going on with {self.rows} frames at once")

    def _input(self, images: Images, first: int, count: int) -> Tensor:
        """Normalised (count, channels, size, size) of the rows from `first`: every call has one shape."""
        pre, chosen = self.preprocessing, []
        for rows, pixels in images:
            start, stop = np.searchsorted(rows, (first, first + count))
            if stop - start == count:
                return preprocess(pixels[start:stop], pre)
            if start < stop:
                chosen.append((rows[start:stop] - first, pixels[start:stop]))
        x = torch.zeros((count, pre.channels, pre.size, pre.size), device=self.device)
        for rows, pixels in chosen:
            x[torch.from_numpy(rows).to(self.device)] = preprocess(pixels, pre)
        return x


def find_precision(precision: str, device: torch.device) -> str:
    """What `auto` stands for: bf16 where the hardware multiplies it natively, else fp32."""
    if precision != "auto":
        return precision
    native = False
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        native = any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native else "fp32"


def load_backbones(backbones: Sequence[str], weights: dict[str, str]) -> dict[str, LoadedBackbone]:
    """The frozen networks of `--backbone` with the weights of `--weights`, by the name their features get.

    Keys of `weights` are names or what was given to `--backbone`. Raises UserError.
    """
    loaded: dict[str, LoadedBackbone] = {}
    unused = dict(weights)
    specs = {given: find_spec(given) for given in backbones}
    for given, spec in specs.items():
        if spec.name in loaded:
            raise UserError(f"two backbones are called {spec.name!r}; give one another name in its YAML file")
        file = unused.pop(spec.name, None) or unused.pop(given, None)
        loaded[spec.name] = load(spec, file)
    if unused:
        names = ", ".join(spec.name for spec in specs.values())
        raise UserError(f"--weights {next(iter(unused))}=...: no such --backbone in this command ({names})")
    return loaded


def prepare_encoders(
    loaded: dict[str, LoadedBackbone], *, device: torch.device, precision: str, rows: int | None
) -> dict[str, Encoder]:
    """The networks ready to compute on `rows` frames at once (None: what suits the device)."""
    if rows is None:
        rows = CPU_ROWS if device.type == "cpu" else GPU_ROWS
    if device.type == "cpu":
        keep_freed_memory()
    return {
        name: Encoder(
            name=name,
            module=prepare_for_inference(backbone.module, device=device, precision=precision),
            preprocessing=backbone.spec.preprocessing,
            device=device,
            rows=rows,
        )
        for name, backbone in loaded.items()
    }


def describe(backbone: LoadedBackbone, *, dtype: str, precision: str) -> BackboneInfo:
    """The backbone as feature files describe it."""
    return BackboneInfo(
        dim=backbone.dim,
        arch=backbone.spec.arch,
        weights=Path(backbone.weights).name,
        weights_sha256=backbone.weights_sha256,
        preprocessing=asdict(backbone.spec.preprocessing),
        pooling=backbone.spec.pooling,
        dtype=dtype,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=precision,
    )


def upload(batch: Batch, device: torch.device, stream: torch.cuda.Stream | None) -> Images:
    """A batch's images on the device; to a GPU they travel on their own stream, beside the computing."""
    if stream is None:
        return [(rows, pixels.to(device)) for rows, pixels in batch.images]
    with torch.cuda.stream(stream):
        images = [(rows, pixels.to(device, non_blocking=True)) for rows, pixels in batch.images]
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for _, pixels in images:
        pixels.record_stream(current)
    return images


class Download:
    """Features on their way to host memory; `numpy()` waits until they are there."""

    def __init__(self, features: Tensor, dtype: torch.dtype):
        features = features.to(dtype)
        self._event = None
        if features.device.type != "cuda":
            self._host = features.cpu()
        else:
            self._host = torch.empty(features.shape, dtype=dtype, pin_memory=True)
            self._host.copy_(features, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def numpy(self):
        """(rows, dim) of the dtype asked for."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
