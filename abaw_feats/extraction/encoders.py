"""The networks of an extraction: loaded, prepared for a device and a precision, applied to batches of frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
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

log = logging.getLogger(__name__)

CPU_ROWS = 8
GPU_ROWS = 256
PARTS_PER_CORE = 2  # in each batch that is decoded and written on the CPU
Images = list[tuple[np.ndarray, Tensor]]
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Encoder:
    """One frozen network on its device."""

    name: str
    module: Prepared
    preprocessing: Preprocessing
    device: torch.device
    rows: int
    """Frames that it computes on at once, in each thread; halved when memory runs out."""
    cores: int = 1
    """Threads that compute side by side, each on `rows` frames."""
    threads: ThreadPoolExecutor | None = None
    """These threads, within `one_part_per_core`."""
    compute: Callable[[Tensor], Tensor] | None = None
    """The same network compiled or captured, where there is one."""

    def encode(self, images: Images, capacity: int, used: int | None = None) -> Encoding:
        """Begin to compute the features of a batch of `capacity` rows, or of at least its first `used` rows.

        The network computes on the same number of rows at every call; rows without an image are zeros.
        images: [(rows int64 (n,) ascending, pixels uint8 (n, height, width, 3) on the device)].
        """
        used = capacity if used is None else max(used, 1)
        if self.threads is not None:
            rows = min(self.rows, capacity)
            starts = range(0, used, rows)
            return Encoding([self.threads.submit(self._part, images, first, rows) for first in starts], capacity)
        while True:
            rows = min(self.rows, capacity)
            try:
                return Encoding([self._part(images, first, rows) for first in range(0, used, rows)], capacity)
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise AbawError(f"backbone {self.name}: not even one frame fits into memory") from None
            self.rows = rows // 2
            torch.cuda.empty_cache()
            log.warning(f"{self.name}: out of memory, continues with {self.rows} frames at once")

    @torch.inference_mode()
    def _part(self, images: Images, first: int, rows: int) -> Tensor:
        return (self.compute or self.module)(self._input(images, first, rows))

    def _input(self, images: Images, first: int, count: int) -> Tensor:
        """Normalised images (count, channels, size, size) of the rows from `first` on."""
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
    """The features of a batch, in parts that may still be computed."""

    parts: list[Tensor | Future]
    capacity: int

    def result(self) -> Tensor:
        """Float32 (n, dim); waits for parts that are still computed."""
        parts = [part.result() if isinstance(part, Future) else part for part in self.parts]
        return torch.cat(parts)[: self.capacity].float()


@contextmanager
def one_part_per_core(encoders: Iterable[Encoder]) -> Iterator[None]:
    """Within it, encoders on the CPU compute on several parts of a batch at once, each on one core.

    Cores do not wait for one another, as the threads of an operation do, and rounding does not depend on the
    number of cores. Parts that have not begun when the context ends are cancelled.
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
    """The frozen networks, by the name under which their features are stored.

    backbones: what `find_spec` takes; weights: {one of these, or the name: file}. Raises UserError.
    """
    loaded: dict[str, LoadedBackbone] = {}
    unused = dict(weights)
    specs = {backbone: find_spec(backbone) for backbone in backbones}
    for backbone, spec in specs.items():
        if spec.name in loaded:
            raise UserError(f"two backbones are called {spec.name!r}; give one of them another name in its YAML file")
        file = unused.pop(spec.name, None) or unused.pop(backbone, None)
        loaded[spec.name] = load(spec, file)
    if unused:
        names = ", ".join(spec.name for spec in specs.values())
        raise UserError(f"weights of {next(iter(unused))}: no such backbone among those to extract ({names})")
    return loaded


def prepare_encoders(
    loaded: dict[str, LoadedBackbone], *, device: torch.device, precision: str, rows: int | None
) -> dict[str, Encoder]:
    """The networks, ready to compute on `rows` frames at once (None: as many as suit the device)."""
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
    """How many rows a batch should have for all of these encoders."""
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
    """A batch's images on the device; they are copied to a GPU on a stream of their own, during computation."""
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
    """Features that are copied to host memory; `numpy()` waits for the copy."""

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

    def numpy(self) -> np.ndarray:
        """Features (rows, dim) of the requested dtype."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
