"""The extraction engine: frames of many videos through several encoders into one feature file.

Run it as `abaw-extract`, or over several GPUs as `torchrun --nproc-per-node 8 -m abaw_feats extract`.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from abaw_feats.backbones import LoadedBackbone
from abaw_feats.extraction.acceleration import accelerate
from abaw_feats.extraction.batches import Batch, load_batches
from abaw_feats.extraction.changes import Changes, find_changes
from abaw_feats.extraction.encoders import (
    DTYPES,
    Download,
    Encoder,
    Encoding,
    batch_rows,
    describe,
    load_backbones,
    one_part_per_core,
    prepare_encoders,
    upload,
)
from abaw_feats.extraction.join import Holdings, join_files, labels_are_in
from abaw_feats.extraction.shard import balanced_shards
from abaw_feats.extraction.spool import Spool, SpoolWriter, locked_spool, told
from abaw_feats.reading.decoder_processes import supported
from abaw_feats.reading.frames import VideoSource, list_videos
from abaw_seq.data.annotations import Annotations, read_annotations
from abaw_seq.data.feature_file import BackboneInfo, FeatureReader, merge_backbones
from abaw_seq.data.matching import log_matches
from abaw_seq.engine.device import find_precision
from abaw_seq.engine.processes import process_group
from abaw_seq.errors import AbawError
from abaw_seq.files import PathLike, each_path
from abaw_seq.terminal import progress

log = logging.getLogger(__name__)

Share = dict[tuple[str, ...], list[VideoSource]]

BATCHES_BEHIND = 3
IMAGES_FOR_PROCESSES = 5000  # fewer are decoded by threads before the processes have started
LONGEST_WAIT = timedelta(days=14)  # of the first process that is done for the last one
VIDEOS_LISTED = 20


def extract(
    *,
    backbones: str | Sequence[str],
    videos: PathLike | Sequence[PathLike],
    out: PathLike,
    weights: dict[str, str] | None = None,
    annotations: PathLike | Sequence[PathLike] = (),
    device: str = "auto",
    batch_size: int | None = None,
    precision: str = "auto",
    dtype: str | None = None,
    shard: tuple[int, int] | None = None,
    strict: bool = False,
) -> None:
    """Write the features of every frame of `videos`, by one or several `backbones`, to the file `out`.

    Features that `out` and its spool already contain are not computed again, unless the images or the video file
    have changed since.

    weights: {backbone: file or "random"}; dtype: "float16" or "float32" (default: as in `out`, else float16);
    shard: (I, N) for the I-th of N shares of the videos.
    Raises UserError where the arguments do not fit each other or `out`, and AbawError at the end if videos
    (with `strict`: frames) could not be read.

    >>> extract(backbones="iresnet18", weights={"iresnet18": "random"}, videos="cropped_aligned", out="new.h5")
    """
    out = Path(out)
    with process_group(device, longest_wait=LONGEST_WAIT) as group, ExitStack() as stack:
        # Videos, labels, networks.
        spool = group.share(lambda: stack.enter_context(locked_spool(out)))
        sources = group.share(lambda: list_videos(each_path(videos)))
        if shard is not None:
            sources = balanced_shards(sources, shard[1])[shard[0] - 1]
        labels = read_annotations(*each_path(annotations)) if annotations else None
        loaded = load_backbones([backbones] if isinstance(backbones, str) else backbones, weights or {})

        # What remains to be done, and this process's share of it.
        precision = settled_precision(precision, finished_files(spool), loaded, group.device)
        plan = group.share(
            lambda: make_plan(sources, loaded, spool, dtype=dtype, precision=precision, processes=group.size)
        )
        share = plan.shares[group.rank]
        frames = sum(video.frame_count for videos_alike in share.values() for video in videos_alike)

        # Read, decode, compute and write at the same time, each a few batches ahead of the next.
        encoders = {}
        if share:
            encoders = prepare_encoders(loaded, device=group.device, precision=precision, rows=batch_size)
            accelerate(encoders, {name: frames_of(share, name) for name in encoders})
        shown = progress("extract", frames, "frames") if share and group.first else nullcontext(lambda *_: None)
        with (
            one_part_per_core(encoders.values()),
            closing(SpoolWriter(spool, plan.infos)) as spooling,
            shown as advance,
            ThreadPoolExecutor(1) as writer,
        ):

            def write(batch: Batch, features: dict[str, Download]) -> None:
                spooling.write(batch, {name: rows.numpy() for name, rows in features.items()})
                advance(batch.rows, f"{spooling.finished} videos done")

            writing: deque[Future] = deque()
            for batch, features in encode_videos(share, encoders, infos=plan.infos, device=group.device):
                writing.append(writer.submit(write, batch, features))
                if len(writing) > BATCHES_BEHIND:
                    writing.popleft().result()
            while writing:
                writing.popleft().result()

        # Join, once all processes are done.
        failures = dict(plan.changes.refused)
        for of_process in group.gather(spooling.failures):
            failures |= of_process
        if group.first:
            join(spool, labels, plan.changes)
            report(out, sources, failures, labels, strict=strict)


@dataclass(frozen=True)
class Plan:
    """What a run computes."""

    infos: dict[str, BackboneInfo]
    """The backbones, as the feature file describes them."""
    shares: list[Share]
    """Of each process: {backbones to compute: videos that lack exactly these}."""
    changes: Changes
    """Which videos have changed since their extraction."""


def make_plan(
    sources: Sequence[VideoSource],
    loaded: dict[str, LoadedBackbone],
    spool: Spool,
    *,
    dtype: str | None,
    precision: str,
    processes: int,
) -> Plan:
    """Compare the videos and backbones to extract with those that the output and its spool contain.

    Raises UserError if a stored backbone has other weights or preprocessing than the loaded one.
    """
    stored = Holdings(finished_files(spool))
    known = stored.backbones()
    infos = {
        name: describe(
            backbone,
            dtype=dtype or (known[name].dtype if name in known else "float16"),
            precision=precision,
        )
        for name, backbone in loaded.items()
    }
    merge_backbones({**stored.by_file, "this command": infos})

    changes = find_changes(sources, stored, infos)
    stored = without_outdated(spool, stored, changes)
    lacking: dict[str, tuple[str, ...]] = {}
    for video in sources:
        held = stored.held(video.name)
        if video.name in changes.changed and spool.out in stored.videos.get(video.name, ()):
            held = set()
        if video.name not in changes.refused and not held.issuperset(infos):
            lacking[video.name] = tuple(name for name in infos if name not in held)
    shares = []
    for videos in balanced_shards([video for video in sources if video.name in lacking], processes):
        share: Share = {}
        for video in videos:
            share.setdefault(lacking[video.name], []).append(video)
        shares.append(share)
    return Plan(infos, shares, changes)


def without_outdated(spool: Spool, stored: Holdings, changes: Changes) -> Holdings:
    """What is stored, once the outdated videos in the spool are deleted; those in the output stay until they are
    replaced.
    """
    if not changes.changed:
        return stored
    for path in {path for paths in changes.changed.values() for path in paths if path != spool.out}:
        path.unlink()
    names = list(changes.changed)
    more = ", ..." if len(names) > VIDEOS_LISTED else ""
    log.warning(
        f"{len(names)} videos have changed since they were extracted, and are extracted again: "
        f"{', '.join(names[:VIDEOS_LISTED])}{more}"
    )
    return Holdings(finished_files(spool), changes.changed)


def frames_of(share: Share, backbone: str) -> int:
    """How many frames a backbone has to compute."""
    return sum(video.frame_count for names, videos in share.items() if backbone in names for video in videos)


def settled_precision(precision: str, files: Sequence[Path], loaded: Iterable[str], device: torch.device) -> str:
    """The precision to compute in; `auto` is that of the features already in the files, if they agree."""
    if precision == "auto":
        known = Holdings(files).backbones()
        stored = {known[name].precision for name in loaded if name in known}
        if len(stored) == 1:
            return stored.pop()
    return find_precision(precision, device)


def finished_files(spool: Spool) -> list[Path]:
    """The output, if it exists, and the finished videos beside it."""
    return [path for path in (spool.out,) if path.exists()] + spool.parts()


def encode_videos(
    share: Share,
    encoders: dict[str, Encoder],
    *,
    infos: dict[str, BackboneInfo],
    device: torch.device,
) -> Iterator[tuple[Batch, dict[str, Download]]]:
    """Each batch of frames, decoded once, with its features by every encoder that its videos lack."""
    on_gpu = device.type == "cuda"
    uploads = torch.cuda.Stream(device) if on_gpu else None
    workers = decoding_threads(device)
    computing: deque[tuple[Batch, dict[str, Encoding]]] = deque()

    def finish() -> tuple[Batch, dict[str, Download]]:
        batch, encodings = computing.popleft()
        return batch, {name: Download(parts.result(), DTYPES[infos[name].dtype]) for name, parts in encodings.items()}

    for names, videos in share.items():
        rows = batch_rows([encoders[name] for name in names])
        images = sum(video.frame_count for video in videos if not video.is_file)
        apart = on_gpu and images >= IMAGES_FOR_PROCESSES and supported()
        for batch in load_batches(videos, batch_size=rows, workers=workers, processes=apart, pin_memory=on_gpu):
            pixels = upload(batch, device, uploads)
            encodings = {name: encoders[name].encode(pixels, batch.capacity, batch.rows) for name in names}
            computing.append((batch, encodings))
            if on_gpu or len(computing) > 1:  # a GPU has its own queue
                yield finish()
    while computing:
        yield finish()


def decoding_threads(device: torch.device) -> int:
    """Number of threads or processes: one per core for a GPU; fewer for the CPU, whose cores the encoders need."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores // here if device.type == "cuda" else cores // (2 * here))


def join(spool: Spool, labels: Annotations | None, changes: Changes) -> None:
    """Write the finished videos and the labels into the output, unless it has them all."""
    files = finished_files(spool)
    same = files == [spool.out] and not changes.stamps
    if not files or (same and (labels is None or labels_are_in(spool.out, labels))):
        return
    join_files(files, spool.out, annotations=labels, outdated=changes.changed, stamps=changes.stamps)
    spool.remove()


def report(
    out: Path,
    sources: Sequence[VideoSource],
    failures: dict[str, str],
    labels: Annotations | None = None,
    *,
    strict: bool,
) -> None:
    """Say what the output contains, which videos have labels and what could not be read.

    Raises AbawError for videos that are missing or incomplete and, if `strict`, for unreadable frames.
    """
    frames = videos = 0
    unreadable: dict[str, np.ndarray] = {}
    reasons: dict[str, str] = {}
    incomplete: dict[str, str] = {}
    if out.exists():
        with FeatureReader(out) as reader:
            for video in (source.name for source in sources if source.name in reader.videos):
                valid = reader.valid(video)
                videos, frames = videos + 1, frames + len(valid)
                record = reader.record(video)
                if not valid.all():
                    unreadable[video] = reader.frames(video)[~valid]
                    reasons[video] = f"; {told(record.unreadable)}" if record.unreadable else ""
                if record.incomplete:
                    incomplete[video] = record.incomplete
            names = ", ".join(f"{name} ({info.dim})" for name, info in reader.backbones.items())
            numbers_of = {video: reader.frames(video) for video in reader.videos} if labels is not None else {}
        log.info(f"{out}: {videos} videos, {frames} frames, features of {names}")
        if labels is not None:
            log_matches(numbers_of, labels)
    for video, numbers in list(unreadable.items())[:VIDEOS_LISTED]:
        log.warning(f"  {video}: {len(numbers)} unreadable (valid = false): frames {ranges(numbers)}{reasons[video]}")
    if len(unreadable) > VIDEOS_LISTED:
        log.warning(f"  and {len(unreadable) - VIDEOS_LISTED} more videos with unreadable frames")
    for video, reason in incomplete.items():
        log.warning(f"  {video}: {reason}; what could be read is kept")
    for video, reason in failures.items():
        log.warning(f"  {video}: left out, {reason}")
    faults = [
        f"{len(names)} of {len(sources)} videos {what}: {', '.join(list(names)[:VIDEOS_LISTED])}"
        for names, what in ((failures, "could not be extracted"), (incomplete, "break off before their end"))
        if names
    ]
    if faults:
        raise AbawError("; ".join(faults))
    if strict and unreadable:
        count = sum(len(numbers) for numbers in unreadable.values())
        raise AbawError(f"strict: {count} frames of {len(unreadable)} videos could not be read")


def ranges(numbers: np.ndarray, most: int = 8) -> str:
    """Ascending numbers as text, with runs abbreviated.

    >>> ranges(np.array([3, 4, 5, 9]))
    '3-5, 9'
    """
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
    ends = np.append(starts[1:], len(numbers)) - 1
    runs = [f"{numbers[a]}" if a == b else f"{numbers[a]}-{numbers[b]}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(runs[:most]) + (", ..." if len(runs) > most else "")
