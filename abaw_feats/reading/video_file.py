"""Video files: what their headers say, and their frames, upright and with those that are damaged marked."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abaw_feats.reading.declared_size import declared_size
from abaw_feats.reading.decoding import MAX_PIXELS, Unreadable, turn

if TYPE_CHECKING:  # listing folders needs no video decoder
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer
    from av.error import FFmpegError

# Containers of pictures and sound alone: playlists (hls, concat, dash) name other files and addresses.
KINDS = (
    "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,m4v,h264,hevc,av1,obu,ivf,asf,asf_o,flv,ogg,mxf,"
    "dv,rm,nut,wtv,mjpeg,yuv4mpegpipe"
)
_CONTAINER_OPTIONS = {"format_whitelist": KINDS, "protocol_whitelist": "file"}
DAMAGED = Unreadable("the decoder marks it as damaged")
LOST = Unreadable("its data cannot be decoded")
TIME_UNITS = 1_000_000  # per second, of a container's duration
END_MISSING = 0.1  # of a video's frames and duration by its header, to call it broken off for that alone


class BrokenOff(ValueError):
    """A video file ends before its header says, or its frames cannot be decoded to the end."""


def video_header(path: str | Path) -> tuple[int, float | None]:
    """(number of frames, frames per second) by a video file's header; 0 and None where it does not say.

    A file that cannot be opened has 0 frames: whoever decodes it gets the reason.
    """
    try:
        with _opened(path) as (container, stream):
            return _frame_count(container, stream), float(stream.average_rate) if stream.average_rate else None
    except (ValueError, OSError):
        return 0, None


def decode_video(path: str | Path) -> Iterator[np.ndarray | Unreadable]:
    """Yield the frames of a video file in the order they are shown: uint8 (height, width, 3), RGB, turned upright.

    A frame that the decoder marks as damaged, or that it cannot decode, is `Unreadable`.
    Raises BrokenOff after the last frame if the file ends too early, ValueError, with the reason, if nothing of it can
    be decoded, and OSError if the storage fails.
    """
    import av

    read, end = 0, 0.0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        packets = _Packets(container.demux(stream))
        try:
            for frame in _in_order(packets):
                if not isinstance(frame, Unreadable):
                    end = max(end, (frame.time or 0) + float((frame.duration or 0) * (frame.time_base or 0)))
                    frame = _pixels(frame)
                    read += not isinstance(frame, Unreadable)
                yield frame
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise _ended(read, f"not decodable after {read} frames ({_text(error)})") from error
        expected = _frame_count(container, stream)
        cut = packets.cut or declared_size(path) > os.path.getsize(path)
        if (cut and read != expected) or _much_is_missing(container, stream, read, end):
            of = f" of {expected}" if read < expected else ""
            raise _ended(read, f"the file breaks off: {read}{of} frames could be read")


class _Packets:
    """The packets of a stream; the last one is left out, and the stream `cut`, if it is incomplete."""

    def __init__(self, packets: Iterator[Packet]):
        self._packets = packets
        self.cut = False

    def __iter__(self) -> Iterator[Packet]:
        previous = None
        for packet in self._packets:
            if previous is not None:
                # The empty packet after the last one empties the decoder.
                self.cut = bool(not packet.size and previous.is_corrupt)
                if not self.cut:
                    yield previous
            previous = packet
        if previous is not None:
            yield previous


def _in_order(packets: _Packets) -> Iterator[VideoFrame | Unreadable]:
    """Decoded frames, with `LOST` in the places of those whose packets cannot be decoded."""
    from av.error import InvalidDataError

    due: list[int] = []  # times of packets whose frames have not come yet
    lost = 0
    for packet in packets:
        if packet.pts is not None:
            heapq.heappush(due, packet.pts)
        try:
            frames: list[Any] = packet.decode()
        except InvalidDataError:
            frames = []
            lost += 1
        for frame in frames:
            while due and frame.pts is not None and due[0] <= frame.pts:
                # Many a packet rightly has no frame: only where one could not be decoded is its frame lost.
                if heapq.heappop(due) < frame.pts and lost:
                    lost -= 1
                    yield LOST
            yield frame
    for _ in range(lost):
        yield LOST


def _pixels(frame: VideoFrame) -> np.ndarray | Unreadable:
    if frame.width * frame.height > MAX_PIXELS:
        return Unreadable("it has too many pixels")
    if frame.is_corrupt:
        return DAMAGED
    pixels = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return pixels if matrix is None else turn(pixels, *_turn_of(np.frombuffer(bytes(matrix), np.int32)))


def _turn_of(matrix: np.ndarray) -> tuple[bool, bool, bool]:
    """(swap, flip rows, flip columns) for `turn`: the multiple of 90 degrees that is nearest to a display matrix.

    matrix: int32 (9,), row by row, as in ISO/IEC 14496-12: (x, y, 1) times the matrix is where a pixel is shown.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _ended(read: int, reason: str) -> ValueError:
    return BrokenOff(reason) if read else ValueError(reason)


def _frame_count(container: InputContainer, stream: VideoStream) -> int:
    seconds = (container.duration or 0) / TIME_UNITS
    return max(stream.frames or round(seconds * float(stream.average_rate or 0)), 0)


def _much_is_missing(container: InputContainer, stream: VideoStream, read: int, end: float) -> bool:
    """Whether far fewer frames came than the header counts, and they end far before its duration.

    Both, because fewer frames alone may be right (edit lists show a part of them, AVI counts dropped frames).
    """
    durations = [(container.duration or 0) / TIME_UNITS, float((stream.duration or 0) * (stream.time_base or 0))]
    duration = min((seconds for seconds in durations if seconds > 0), default=0.0)
    return read < (1 - END_MISSING) * stream.frames and end < (1 - END_MISSING) * duration


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its first video stream; ValueError, with the reason, if there is none."""
    import av

    try:
        container = av.open(os.path.abspath(path), container_options=_CONTAINER_OPTIONS)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"not decodable after 0 frames ({_text(error)})") from error
    with container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("there is no decoder for its video stream")
        if stream.width * stream.height > MAX_PIXELS:
            raise ValueError(f"frames of {stream.width} x {stream.height} pixels are too large")
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield container, stream


def _text(error: FFmpegError) -> str:
    if error.errno == errno.EINVAL:  # what a format that is not in `KINDS` gives
        return "not one of the kinds of video file that are opened"
    return str(error.strerror)
