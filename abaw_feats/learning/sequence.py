"""Encoders that learn from windows of frames: encoder, cached features of the same frames, temporal module, heads.

The joint model of Liu et al. (ABAW7, arXiv 2407.16945): windows of a few frames go through the encoder; the task
features of separately trained models, if there are any, are fused with its feature; a temporal module and linear heads
follow. What a run leaves behind is the encoder, as a backbone like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning.augment import AugmentConfig, training_views
from abaw_feats.learning.frame_store import FrameStore
from abaw_feats.learning.sampling import Pool
from abaw_feats.learning.task_network import TaskHeads
from abaw_feats.reading.image_index import ImageIndex
from abaw_feats.reading.images import normalise
from abaw_seq.config.ranges import Checked, Count, Range
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.engine.device import autocast
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.models.encoders import EncoderConfig, stack
from abaw_seq.models.outputs import probabilities

WINDOWS = 8  # at a time, in validation


@dataclass(frozen=True)
class SequenceConfig(Checked):
    """Windows of successive frames, and what sees them together."""

    length: Count = 12
    """Frames of a window; shorter at the end of a video."""
    step: Count | None = None
    """Frames from the start of one training window to that of the next; null for `length`."""
    temporal: EncoderConfig = field(default_factory=lambda: EncoderConfig(kind="transformer", dim=768, layers=2))
    """The temporal module between the encoder and the heads; kind `none` treats each frame by itself."""
    features: tuple[str, ...] = ()
    """Feature files of the same videos whose features are fused with the encoder's; [] for none."""
    backbones: tuple[str, ...] = ()
    """The backbones of these files to fuse; [] for all."""
    fusion: Literal["sum", "concat"] = "sum"
    """sum: linear maps of all features to the encoder's width, added, then linear, ReLU, dropout 0.3, linear (the
    published joint model); concat: side by side."""
    checkpoint: Annotated[int, Range("[0, 1000000]")] = 0
    """Images whose activations are kept at once: others are computed again on the way back; 0 keeps all. Not for
    networks with batch norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbones and not self.features:
            raise ValueError("backbones need the feature files that hold them: features")


class Fusion(nn.Module):
    """The encoder's feature and cached ones as one: (frames, dim), (frames, extra) -> (frames, out_dim)."""

    def __init__(self, dim: int, extra: Sequence[int], kind: str):
        super().__init__()
        self.extra, self.kind = list(extra), kind
        self.out_dim = dim + sum(extra) if kind == "concat" else dim
        if kind == "sum" and extra:
            self.maps = nn.ModuleList(nn.Linear(width, dim) for width in extra)
            self.mix = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(0.3), nn.Linear(dim, dim))

    def forward(self, feature: Tensor, cached: Tensor | None) -> Tensor:
        # feature: (frames, dim); cached: (frames, sum of extra)
        if cached is None or not self.extra:
            return feature
        if self.kind == "concat":
            return torch.cat([feature, cached.to(feature.dtype)], -1)
        parts = cached.to(feature.dtype).split(self.extra, -1)
        return self.mix(feature + sum(linear(part) for linear, part in zip(self.maps, parts, strict=True)))


class SequenceNetwork(nn.Module):
    """Encoder, fusion, LeakyReLU(0.1), temporal module and heads over windows of frames.

    forward(images (frames, channels, size, size), place, used, cached) -> {task: (frames, width) raw outputs}.
    place: int64 (frames,), where in the flattened windows (windows x length) each image belongs. used: int64
    (windows,), frames of each window. cached: (frames, extra), or None.
    """

    def __init__(
        self, encoder: nn.Module, heads_of: Callable[[int], TaskHeads], config: SequenceConfig, *,
        extra: Sequence[int] = (), frozen: bool = False,
    ):  # fmt: skip
        super().__init__()
        if config.checkpoint and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in encoder.modules()):
            raise UserError("sequence.checkpoint: the encoder has batch norm, whose statistics would count twice")
        self.encoder, self.frozen, self.length, self.kept = encoder, frozen, config.length, config.checkpoint
        self.fusion = Fusion(encoder.dim, extra, config.fusion)  # type: ignore[arg-type]
        self.temporal = stack(self.fusion.out_dim, config.temporal, config.temporal.layers)
        # Without a temporal module and cached features nothing stands between the encoder and its heads.
        self.activation = nn.Identity() if config.temporal.kind == "none" and not extra else nn.LeakyReLU(0.1)
        self.heads = heads_of(self.temporal.out_dim)

    def forward(self, images: Tensor, place: Tensor, used: Tensor, cached: Tensor | None = None) -> dict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self._encoded(images)
        features = self.activation(self.fusion(features, cached))
        windows = features.new_zeros(len(used) * self.length, features.shape[-1])
        windows = windows.index_copy(0, place, features).unflatten(0, (len(used), self.length))
        seen, _ = self.temporal(windows, None, used)
        return self.heads(seen.flatten(0, 1)[place])

    def _encoded(self, images: Tensor) -> Tensor:
        if not self.kept or not torch.is_grad_enabled():
            return self.encoder(images)
        parts = images.split(self.kept)
        return torch.cat([checkpoint(self.encoder, part, use_reentrant=False) for part in parts])

    def train(self, mode: bool = True) -> SequenceNetwork:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def windows_of(index: ImageIndex, rows: Tensor, length: int, step: int) -> Tensor:
    """Windows of successive rows of each video: int64 (windows, length), -1 behind the end of a video.

    With `step` equal to `length` every row is in exactly one window. Otherwise the last window of a video ends with it.
    """
    windows = []
    source = torch.from_numpy(index.source)[rows]
    for number in source.unique():
        own = rows[source == number]
        last = len(own) - 1 if step == length else max(len(own) - length, 0)
        starts = list(range(0, last + 1, step))
        if step != length and starts[-1] < last:
            starts.append(last)
        for start in starts:
            window = own[start : start + length]
            windows.append(F.pad(window, (0, length - len(window)), value=-1))
    return torch.stack(windows) if windows else rows.new_zeros(0, length)


class Windows:
    """Batches of windows as rows for a frame store, and where the images that it reads belong.

    Batches must be taken in the order in which they were drawn.
    """

    def __init__(self, table: Tensor):
        """table: int64 (windows, length), as `windows_of` makes it."""
        self.table = table
        self._drawn: deque[Tensor] = deque()

    def pools(self, pools: Sequence[Pool]) -> list[Pool]:
        """The windows that begin with a frame of each pool; a window's weight is the mean of its frames'."""
        result = []
        for pool in pools:
            own = torch.isin(self.table[:, 0], pool.rows).nonzero()[:, 0]
            weights = None
            if pool.weights is not None:
                of_row = torch.zeros(int(pool.rows.max()) + 1, dtype=pool.weights.dtype)
                of_row[pool.rows] = pool.weights
                rows = self.table[own]
                known = (rows >= 0) & torch.isin(rows, pool.rows)
                weights = (of_row[rows.clamp(0, len(of_row) - 1)] * known).sum(1) / known.sum(1)
            result.append(Pool(own, pool.share, weights))
        return result

    def rows(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The rows of each batch of windows."""
        for numbers in batches:
            windows = self.table[numbers]
            self._drawn.append(windows)
            yield windows[windows >= 0]

    def places(self, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the next batch, whose images of the rows `read` could be read: (place, used, window) of these images."""
        windows = self._drawn.popleft()
        present = (windows >= 0).flatten().nonzero()[:, 0]
        rows = windows.flatten()[present]
        kept, k = [], 0
        for row in read.tolist():
            while rows[k] != row:
                k += 1
            kept.append(k)
            k += 1
        places = present[torch.tensor(kept, dtype=torch.int64)]
        window = places // windows.shape[1]
        return places, (windows >= 0).sum(1), torch.unique_consecutive(window, return_inverse=True)[1]


def window_losses(
    trained: nn.Module,
    objective: Callable[[dict[str, Tensor], Tensor], Tensor],
    windows: Windows,
    cached: Tensor | None,
    preprocessing: Preprocessing,
    augment: AugmentConfig,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    generator: torch.Generator,
) -> Callable[[Tensor, Tensor], Tensor]:
    """For an epoch's `train_epoch`: pixels and rows of a batch of windows -> its losses; a window changes as one."""
    cast = autocast(dtype, device)

    def losses_of(pixels: Tensor, rows: Tensor) -> Tensor:
        place, used, window = windows.places(rows)
        pixels = pixels.to(device, non_blocking=True)
        images = training_views(pixels, preprocessing, augment, generator=generator, window=window)
        extra = None if cached is None else cached[rows].to(device)
        with cast:
            outputs = trained(images, place.to(device), used.to(device), extra)
        return objective(outputs, rows)

    return losses_of


@torch.no_grad()
def validate_windows(
    network: SequenceNetwork,
    store: FrameStore,
    rows: Tensor,
    *,
    cached: Tensor | None,
    labels: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Official scores of a network on rows of a store, each of them in one window."""
    network.eval()
    windows = Windows(windows_of(store.index, rows, network.length, network.length))
    predictions: dict[str, list[np.ndarray]] = {}
    scored = []
    for pixels, read in store.batches(windows.rows(torch.arange(len(windows.table)).split(WINDOWS))):
        place, used, _ = windows.places(read)
        images = normalise(pixels.to(device), preprocessing)
        extra = None if cached is None else cached[read].to(device)
        with autocast(dtype, device):
            outputs = network(images, place.to(device), used.to(device), extra)
        for task, values in probabilities(outputs).items():
            predictions.setdefault(task, []).append(values.cpu().numpy())
        scored.append(read)
    joined = {task: np.concatenate(parts) for task, parts in predictions.items()}
    return score(joined, labels[torch.cat(scored)].numpy())


def cached_features(config: SequenceConfig, index: ImageIndex) -> tuple[Tensor | None, list[int]]:
    """(float16 (rows, extra) features of the rows of an index, widths of the backbones); (None, []) without files.

    Raises UserError, naming the video, where a frame has no features.
    """
    if not config.features:
        return None, []
    names = np.array([source.name for source in index.sources])
    blocks, widths = [], []
    for path in config.features:
        with FeatureReader(path) as reader:
            chosen = [name for name in config.backbones or reader.backbones if name in reader.backbones]
            for backbone in chosen:
                table = np.zeros((len(index), reader.backbones[backbone].dim), np.float16)
                for number, name in enumerate(names):
                    rows = np.flatnonzero(index.source == number)
                    table[rows] = _features_of(reader, backbone, str(name), index.number[rows], path)
                blocks.append(torch.from_numpy(table))
                widths.append(table.shape[1])
    if not blocks:
        raise UserError(f"sequence.backbones: none of {', '.join(config.backbones)} is in {', '.join(config.features)}")
    return torch.cat(blocks, 1), widths


def _features_of(reader: FeatureReader, backbone: str, video: str, numbers: np.ndarray, path: str) -> np.ndarray:
    if video not in reader.videos:
        raise UserError(f"{path}: has no video {video}; extract its features too")
    frames = reader.frames(video)
    at = np.searchsorted(frames, numbers).clip(max=len(frames) - 1)
    if (missing := numbers[frames[at] != numbers]).size:
        raise UserError(f"{path}: video {video} has no frame {missing[0]}; extract its features again")
    return reader.features(video, backbone)[at]
