"""The feature file, contract version 1: the one place that knows its HDF5 layout.

/                                  attrs: format, version, tool
/backbones/<backbone>              attrs: dim, arch, weights, weights_sha256, preprocessing (JSON),
                                   pooling, dtype, created, precision (opt.)
/videos/<video>                    attrs: source, split (opt.), fps (opt.), frame_count (opt.),
                                   stamp, content, incomplete, unreadable (opt.; see `SourceRecord`)
/videos/<video>/frames             int32 [N], rising, 1-based
/videos/<video>/valid              bool [N], false: the frame could not be read, its features are zero
/videos/<video>/features/<backbone>  float16 or float32 [N, D], chunked by up to 256 rows
/videos/<video>/labels             float32 [N, 15] (opt.), NaN where there is no label
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from abaw_seq import __version__
from abaw_seq.data.checked_file import NUMBERS, CheckedFile
from abaw_seq.data.folder import video_name
from abaw_seq.data.source_record import SourceRecord
from abaw_seq.errors import UserError
from abaw_seq.files import whole_hdf5
from abaw_seq.tasks import LABEL_COLUMNS, SPLITS

Shape = tuple[int | None, ...]

FORMAT = "abaw-features"
VERSION = 1
CHUNK_ROWS = 256
MOST = np.iinfo(np.int32)


@dataclass(frozen=True)
class BackboneInfo:
    """How the features of one backbone were made; those of two files go together if `identity` is equal."""

    dim: int
    arch: str
    weights: str
    weights_sha256: str
    preprocessing: dict[str, Any]
    pooling: str
    dtype: str
    """what is stored: float16 or float32"""
    created: str
    precision: str = "fp32"
    """what was computed in: fp32, bf16 or fp16"""

    @property
    def identity(self) -> tuple:
        """What is equal for features that can stand in for each other: all but file name, date and precision."""
        settings = json.dumps(self.preprocessing, sort_keys=True)
        return (self.dim, self.arch, self.weights_sha256, settings, self.pooling, self.dtype)


@dataclass
class VideoFeatures:
    """One video: its frames with their features and, where known, labels."""

    name: str
    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    valid: np.ndarray
    """bool (frames,): false where the frame could not be read"""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    """by backbone: float16 or float32 (frames, dim)"""
    labels: np.ndarray | None = None
    """float32 (frames, 15), NaN where there is no label"""
    split: str | None = None
    source: str = ""
    fps: float | None = None
    frame_count: int | None = None
    record: SourceRecord = SourceRecord()


class FeatureReader:
    """A feature file open for reading; every access checks shape and type.

    Names of videos are in the form of `folder.video_name`, however they are stored.
    Raises UserError if the file is missing, not HDF5, of another format or of a newer version.
    """

    unnumbered: tuple[str, ...] = ()
    """Videos whose frame numbers are not known: none."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = CheckedFile(self.path, "feature file")
        self._rows: dict[str, int] = {}
        try:
            self._file.check_format(FORMAT, VERSION)
            self.backbones = {name: self._backbone(name) for name in self._file.names("backbones")}
            self._stored = {video_name(name): name for name in self._file.names("videos")}
            self.videos: tuple[str, ...] = tuple(self._stored)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def frames(self, video: str) -> np.ndarray:
        """Frame numbers int32 (frames,), rising."""
        frames = self._read(video, "frames", shape=(None,), kinds="iu")
        if frames.size and (int(frames.min()) < MOST.min or int(frames.max()) > MOST.max):
            raise self._bad(video, "frames", "holds numbers that are no int32")
        if np.any(frames[1:] <= frames[:-1]):
            raise self._bad(video, "frames", "does not rise from row to row")
        return frames.astype(np.int32, copy=False)

    def valid(self, video: str) -> np.ndarray:
        """bool (frames,); false where the frame could not be read."""
        return self._read(video, "valid", shape=(self.rows(video),)).astype(bool, copy=False)

    def rows(self, video: str) -> int:
        """Number of frames of a video in this file."""
        if video not in self._rows:
            self._rows[video] = self._dataset(video, "frames", shape=(None,), kinds="iu").shape[0]
        return self._rows[video]

    def has(self, video: str, backbone: str) -> bool:
        """True if the file has the video's features of this backbone; UserError if they are not as described."""
        if self._file.dataset(*self._place(video), "features", backbone, kinds="f") is None:
            return False
        self.feature_dataset(video, backbone)  # whoever sums up widths relies on them
        return True

    def features(self, video: str, backbone: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features float16 or float32 (stop - start, dim); UserError on NaN or infinity."""
        place, rows = (*self._place(video), "features", backbone), slice(start, stop)
        out = self._file.values(self.feature_dataset(video, backbone), *place, rows=rows)
        if not np.isfinite(out).all():
            raise self._bad(video, f"features/{backbone}", "holds NaN or infinity; extract this video again")
        return out

    def feature_dataset(self, video: str, backbone: str) -> h5py.Dataset:
        """The data set of the features, checked but not read yet, for reading in pieces."""
        if backbone not in self.backbones:
            known = ", ".join(self.backbones) or "none"
            raise UserError(f"{self.path}: no backbone {backbone!r} (there are: {known})")
        expected = (self.rows(video), self.backbones[backbone].dim)
        data = self._dataset(video, "features", backbone, shape=expected, kinds="f")
        if data.dtype not in (np.float16, np.float32):
            raise self._bad(video, f"features/{backbone}", f"is {data.dtype}, not float16 or float32")
        return data

    def labels(self, video: str) -> np.ndarray | None:
        """Labels float32 (frames, 15), NaN where there is none; None if the video has no labels at all."""
        shape = (self.rows(video), len(LABEL_COLUMNS))
        if self._file.dataset(*self._place(video), "labels") is None:
            return None
        return self._read(video, "labels", shape=shape).astype(np.float32, copy=False)

    def split(self, video: str) -> str | None:
        """The video's split: train, val, test or None."""
        split = self._file.attribute("split", str, *self._place(video))
        if split is not None and split not in SPLITS:
            raise self._bad(video, "split", f"is {split!r}, not one of {', '.join(SPLITS)}")
        return split

    def record(self, video: str) -> SourceRecord:
        """How the video was read."""
        place = self._place(video)
        texts = {key: self._file.attribute(key, str, *place) for key in SourceRecord.KEYS}
        return SourceRecord.from_attributes(texts)

    def video(self, video: str, backbones: list[str] | None = None) -> VideoFeatures:
        """A whole video in memory, with the features of these backbones (default: all it has)."""
        names = [b for b in self.backbones if self.has(video, b)] if backbones is None else backbones
        place = self._place(video)
        return VideoFeatures(
            name=video,
            frames=self.frames(video),
            valid=self.valid(video),
            features={name: self.features(video, name) for name in names},
            labels=self.labels(video),
            split=self.split(video),
            source=self._file.attribute("source", str, *place, default="") or "",
            fps=self._file.attribute("fps", float, *place),
            frame_count=self._file.attribute("frame_count", int, *place),
            record=self.record(video),
        )

    def copy_video(self, video: str, into: h5py.Group, backbones: list[str] | None = None) -> None:
        """Copy a video's group as it is, without decoding, with the features of all or of the given backbones."""
        source = self._file.check_tree(*self._place(video))
        for name in backbones or ():
            self.feature_dataset(video, name)
        with self._file.reading(*self._place(video)):
            if backbones is None:
                source.file.copy(source, into, name=video)
                return
            group = into.create_group(video)
            for key, value in source.attrs.items():
                group.attrs[key] = value
            for key in ("frames", "valid", "labels"):
                if key in source:
                    source.copy(key, group)
            features = group.create_group("features")
            for name in backbones:
                source["features"].copy(name, features)

    def _backbone(self, name: str) -> BackboneInfo:
        place = ("backbones", name)
        values: dict[str, Any] = {}
        for key, field_ in BackboneInfo.__dataclass_fields__.items():
            kind: type = int if key == "dim" else str
            value = self._file.attribute(key, kind, *place)
            if value is not None:
                values[key] = value
            elif field_.default is MISSING:
                raise self._file.fault(f"attribute {key} is missing", *place)
        if values["dim"] < 1:
            raise self._file.fault(f"attribute dim is {values['dim']}, not a positive number", *place)
        try:
            values["preprocessing"] = json.loads(values["preprocessing"])
        except (ValueError, RecursionError) as error:
            raise self._file.fault(f"attribute preprocessing is not JSON ({error})", *place) from None
        return BackboneInfo(**values)

    def _place(self, video: str) -> tuple[str, str]:
        """Where a video is in the file, which may spell its name in another Unicode form."""
        return "videos", self._stored.get(video_name(video), video)

    def _read(self, video: str, key: str, *, kinds: str = NUMBERS, shape: Shape) -> np.ndarray:
        return self._file.values(self._dataset(video, key, kinds=kinds, shape=shape), *self._place(video), key)

    def _dataset(self, video: str, *key: str, shape: Shape, kinds: str = NUMBERS) -> h5py.Dataset:
        data = self._file.dataset(*self._place(video), *key, kinds=kinds, shape=shape)
        if data is None:
            raise self._bad(video, "/".join(key), "is missing")
        return data

    def _bad(self, video: str, key: str, what: str) -> UserError:
        return self._file.fault(what, "videos", video, key)


class FeatureWriter:
    """Adds backbones and videos to an open HDF5 file; use through `atomic_feature_file`."""

    def __init__(self, file: h5py.File):
        self._file = file
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["tool"] = f"abaw {__version__}"
        self.backbones_group = file.require_group("backbones")
        self.videos_group = file.require_group("videos")

    def add_backbone(self, name: str, info: BackboneInfo) -> None:
        """Describe a backbone under a name that is not taken yet."""
        group = self.backbones_group.create_group(_checked_name(name))
        for key, value in asdict(info).items():
            group.attrs[key] = json.dumps(value, sort_keys=True) if key == "preprocessing" else value

    def add_video(self, video: VideoFeatures) -> None:
        """Write a whole video."""
        group = self.begin_video(video)
        rows = len(video.frames)
        for name, values in video.features.items():
            self.create_features(group, name, rows, values.shape[1], values.dtype)[:] = values

    def begin_video(self, video: VideoFeatures) -> h5py.Group:
        """Write all of a video but its features, and return its group for `create_features`."""
        group = self.videos_group.create_group(_checked_name(video.name))
        group.attrs["source"] = video.source
        group.attrs.update(video.record.to_attributes())
        for key in ("fps", "frame_count"):
            if (value := getattr(video, key)) is not None:
                group.attrs[key] = value
        group.create_dataset("frames", data=np.asarray(video.frames, np.int32))
        group.create_dataset("valid", data=np.asarray(video.valid, bool))
        self.set_labels(video.name, video.labels, video.split)
        group.create_group("features")
        return group

    @staticmethod
    def create_features(group: h5py.Group, backbone: str, rows: int, dim: int, dtype: np.dtype | str) -> h5py.Dataset:
        """An empty data set (rows, dim) for features in a video's group."""
        chunks = (max(1, min(rows, CHUNK_ROWS)), dim)
        return group["features"].create_dataset(_checked_name(backbone), (rows, dim), dtype, chunks=chunks)

    def set_labels(self, video: str, labels: np.ndarray | None, split: str | None) -> None:
        """Replace a video's labels and split (None removes)."""
        group = self.videos_group[video]
        if "labels" in group:
            del group["labels"]
        if labels is not None:
            group.create_dataset("labels", data=np.asarray(labels, np.float32))
        group.attrs.pop("split", None)
        if split is not None:
            group.attrs["split"] = split


@contextmanager
def atomic_feature_file(path: str | Path) -> Iterator[FeatureWriter]:
    """Build a feature file under a temporary name and rename it over `path` when it is complete.

    On any error the temporary file is deleted and `path` stays as it was.
    """
    path = Path(path)
    with whole_hdf5(path) as file:
        yield FeatureWriter(file)


def merge_backbones(files: dict[str, dict[str, BackboneInfo]]) -> dict[str, BackboneInfo]:
    """The union of several files' backbones ({file name: its backbones}).

    Raises UserError, naming backbone and both files, if one name stands for different networks.
    """
    merged: dict[str, BackboneInfo] = {}
    origin: dict[str, str] = {}
    for path, backbones in files.items():
        for name, info in backbones.items():
            known = merged.setdefault(name, info)
            first = origin.setdefault(name, path)
            if known.identity != info.identity:
                differing = [k for k, a, b in zip(_IDENTITY, known.identity, info.identity, strict=True) if a != b]
                raise UserError(
                    f"backbone {name} in {path} and in {first} differ in {', '.join(differing)}; "
                    "give one of them another name or extract it again"
                )
    return merged


_IDENTITY = ("dim", "arch", "weights_sha256", "preprocessing", "pooling", "dtype")


def _checked_name(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise UserError(f"{name!r} cannot name a video or backbone in a feature file (no '/', not empty)")
    return name
