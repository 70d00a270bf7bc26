"""The networks at work: loaded, prepared for a device and a precision, fed with batches of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abaw_feats.backbones import LoadedBackbone, Prepared, Preprocessing, find_spec, load, prepare_for_inference
from abaw_feats.extraction.batches import Batch
from abaw_feats.reading.images import preprocess
from abaw_seq.data.feature_file import BackboneInfo
from abaw_seq.errors import AbawError, UserError
from abaw_seq.terminal import say

CPU_ROWS = 8
GPU_ROWS = 256
PARTS_PER_CORE = 2  # of so many rows, that are decoded and written at once
Images = list[tuple[np.ndarray, Tensor]]
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Encoder:
    """One frozen network on its device.

    `rows` is how many frames it computes on at once; it is halved when memory runs out. Within
    `one_part_per_core` it computes on `cores` times as many in that many threads.
    """

    name: str
    module: Prepared
    preprocessing: Preprocessing
    device: torch.device
    rows: int
    cores: int = 1
    threads: ThreadPoolExecutor | None = None

    def encode(self, images: Images, capacity: int, used: int | None = None) -> Encoding:
        """Begin to compute the features of a batch's images; rows without an image hold what zeros give.

        There are `capacity` rows of features, or at least `used` if only the first so many are wanted: the
        network always computes on equal numbers of rows, and on no more of them than that needs.
        images: [(rows int64 (n,) rising, pixels uint8 (n, height, width, 3) on the device)].
        """
        wanted = capacity if used is None else max(used, 1)
        if self.threads is not None:
            rows = min(self.rows, capacity)
            starts = range(0, wanted, rows)
            return Encoding([self.threads.submit(self._part, images, first, rows) for first in starts], capacity)
        while True:
            rows = min(self.rows, capacity)
            try:
                return Encoding([self._part(images, first, rows) for first in range(0, wanted, rows)], capacity)
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise AbawError(f"backbone {self.name}: not even one frame fits into memory") from None
            self.rows = rows // 2
            torch.cuda.empty_cache()
            say(f"{self.name}: out of memory, going on with {self.rows} frames at once")

    @torch.inference_mode()
    def _part(self, images: Images, first: int, rows: int) -> Tensor:
        return self.module(self._input(images, first, rows))

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


@dataclass
class Encoding:
    """Features of a batch, part by part, of which some may still be computed."""

    parts: list[Tensor | Future]
    capacity: int

    def result(self) -> Tensor:
        """Float32 (n, dim); waits for what is not there yet."""
        parts = [part.result() if isinstance(part, Future) else part for part in self.parts]
        return torch.cat(parts)[: self.capacity].float()


@contextmanager
def one_part_per_core(encoders: Iterable[Encoder]) -> Iterator[None]:
    """Within it, encoders on the CPU compute on several parts of a batch at once, each on one core.

    No core waits for another within a network, as the threads of an operation do, and how a number rounds
    does not depend on how many cores there are. What has not begun when it ends is given up.
    """
    encoders = [encoder for encoder in encoders if encoder.device.type == "cpu"]
    cores = torch.get_num_threads()
    if not encoders or cores == 1:
        yield
        return
    threads = ThreadPoolExecutor(cores, "encode")
    torch.set_num_threads(1)
    try:
        with encoders[0].module.arithmetic(encoders[0].device):
            for encoder in encoders:
                encoder.cores, encoder.threads = cores, threads
            yield
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)
        for encoder in encoders:
            encoder.cores, encoder.threads = 1, None


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


def batch_rows(encoders: Sequence[Encoder]) -> int:
    """How many rows a batch should have that all of these encoders compute on."""
    on_gpu = any(encoder.device.type == "cuda" for encoder in encoders)
    return max(encoder.rows * encoder.cores for encoder in encoders) * (1 if on_gpu else PARTS_PER_CORE)


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
