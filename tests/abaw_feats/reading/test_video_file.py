"""Video files: upright, whole or said to be broken, and nothing but videos."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from abaw_feats.reading.declared_size import declared_size
from abaw_feats.reading.video_file import BrokenOff, Unreadable, decode_video, video_header
from tests.abaw_feats.tiny_videos import write_noisy_video as write

FRAMES, SIZE = 40, (64, 48)  # as `write` makes them
JPEG = b"\xff\xd8"
FAST = {"movflags": "faststart"}
KINDS = {
    "h264.mp4": ("libx264", FAST), "h264.mov": ("libx264", FAST), "h264.m4v": ("mpeg4", FAST),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}), "h264.mkv": ("libx264", {}),
    "vp8.webm": ("libvpx", {}), "vp9.webm": ("libvpx-vp9", {}), "mpeg4.avi": ("mpeg4", {}), "mjpeg.avi": ("mjpeg", {}),
    "wmv2.wmv": ("wmv2", {}), "flash.flv": ("flv", {}),
}  # fmt: skip
WITHOUT_SIZE = {"h264.ts": ("libx264", {}), "mpeg2.mpg": ("mpeg2video", {})}


def read(path: Path) -> tuple[list[np.ndarray | Unreadable], str]:
    """(frames, what BrokenOff says, if raised)."""
    frames, broken = [], ""
    try:
        for frame in decode_video(path):
            frames.append(frame)
    except BrokenOff as error:
        broken = str(error)
    return frames, broken


@pytest.mark.parametrize("name", [*KINDS, *WITHOUT_SIZE])
def test_whole_files_are_whole(tmp_path, name):
    path = write(tmp_path / name, *(KINDS | WITHOUT_SIZE)[name])
    frames, broken = read(path)
    assert broken == "" and len(frames) == FRAMES and declared_size(path) <= path.stat().st_size
    assert all(frame.shape == (*SIZE[::-1], 3) for frame in frames)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_files_that_break_off_are_read_as_far_as_they_go_and_reported(tmp_path, name, share):
    path = write(tmp_path / name, *KINDS[name])
    whole, _ = read(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    frames, broken = read(path)
    assert 1 <= len(frames) < FRAMES or name == "wmv2.wmv"  # whose index is long
    assert broken.startswith(f"the file breaks off: {len(frames)} ") and "could be read" in broken
    for before, after in zip(whole, frames[:-3], strict=False):
        np.testing.assert_array_equal(before, after)


def test_the_header_says_how_many_frames_there_should_be(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", FAST)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    assert video_header(path) == (FRAMES, 25.0)
    frames, broken = read(path)
    assert broken == f"the file breaks off: {len(frames)} of {FRAMES} frames could be read"
    path.write_bytes(data[: data.find(b"mdat") + 8])
    with pytest.raises(ValueError, match=f"0 of {FRAMES} frames|after 0 frames"):
        list(decode_video(path))


def test_frames_at_uneven_times_and_more_sound_than_picture_are_no_faults(tmp_path):
    uneven = write(tmp_path / "uneven.mp4", "libx264", FAST, times=lambda k: 512 * (k + 10 * (k // 7)))
    gap = write(tmp_path / "gap.mkv", "libx264", {}, times=lambda k: 40 * k + 5000 * (k > 20))
    for name in ("sound.mp4", "sound.mkv"):
        frames, broken = read(write(tmp_path / name, "libx264", {}, sound=20))
        assert (len(frames), broken) == (FRAMES, "")
    for path in (uneven, gap):
        frames, broken = read(path)
        assert (len(frames), broken) == (FRAMES, "")


def test_a_cut_by_an_edit_list_is_no_fault(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", FAST)
    data = bytearray(path.read_bytes())
    edit = data.find(b"elst")
    tkhd, mvhd = data.find(b"tkhd"), data.find(b"mvhd")
    (scale,) = struct.unpack_from(">I", data, mvhd + 16)
    half = scale * FRAMES // 25 // 2
    struct.pack_into(">I", data, edit + 12, half)  # the first half alone is shown
    struct.pack_into(">I", data, tkhd + 24, half)
    struct.pack_into(">I", data, mvhd + 20, half)
    path.write_bytes(data)
    frames, broken = read(path)
    assert FRAMES // 2 - 2 <= len(frames) < FRAMES and broken == ""


def test_a_stream_without_a_length_and_zeros_behind_the_end_are_no_faults(tmp_path):
    live = write(tmp_path / "live.mkv", "libx264", {"live": "1"})
    assert declared_size(live) == 0 and read(live)[1] == ""
    for name in ("h264.mp4", "mpeg4.avi"):
        path = write(tmp_path / name, *KINDS[name])
        with open(path, "ab") as file:
            file.write(bytes(1000))
        frames, broken = read(path)
        assert (len(frames), broken) == (FRAMES, "")


def test_frames_that_cannot_be_decoded_keep_their_numbers(tmp_path):
    path = write(tmp_path / "mjpeg.avi", *KINDS["mjpeg.avi"])
    whole, _ = read(path)
    data = bytearray(path.read_bytes())
    for number in (10, 11, 25):
        start = [k for k in range(len(data)) if data[k : k + 4] == b"00dc" and data[k + 8 : k + 10] == JPEG][number]
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        data[start + 10 : start + 8 + size] = bytes(size - 2)
    path.write_bytes(data)
    frames, broken = read(path)
    assert len(frames) == FRAMES and broken == ""
    assert [k for k, frame in enumerate(frames) if isinstance(frame, Unreadable)] == [10, 11, 25]
    for before, after in zip(whole, frames, strict=True):
        if not isinstance(after, Unreadable):
            np.testing.assert_array_equal(before, after)


def test_frames_that_the_decoder_marks_as_damaged_are_unreadable(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", FAST)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
    middle, end = packet.pos + packet.size // 3, packet.pos + packet.size
    data[middle:end] = np.random.default_rng(1).bytes(end - middle)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        marked = [k for k, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
    frames, _ = read(path)
    unreadable = [k for k, frame in enumerate(frames) if isinstance(frame, Unreadable)]
    assert marked and set(unreadable) >= set(marked)
    assert {frames[k].reason for k in marked} == {"the decoder marks it as damaged"}


TURNS = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: np.rot90(x.swapaxes(0, 1), 2),
}


@pytest.mark.parametrize("matrix", TURNS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_videos_are_turned_as_their_display_matrix_says(tmp_path, matrix, suffix):
    path = write(tmp_path / f"a{suffix}", "libx264", FAST, frames=3)
    stored, _ = read(path)
    data = bytearray(path.read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    struct.pack_into(">9i", data, data.find(b"tkhd") + 4 + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned, _ = read(path)
    for before, after in zip(stored, turned, strict=True):
        assert after.flags.c_contiguous
        np.testing.assert_array_equal(after, TURNS[matrix](before))


def test_playlists_and_pictures_that_are_called_videos_are_not_opened(tmp_path):
    other = write(tmp_path / "other.mp4", "libx264", FAST)
    texts = {
        "list.mp4": f"ffconcat version 1.0\nfile '{other.name}'\n",
        "list.mkv": f"ffconcat version 1.0\nfile {other}\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert video_header(tmp_path / name) == (0, None)
        with pytest.raises(ValueError, match="not decodable after 0 frames"):
            list(decode_video(tmp_path / name))
    with pytest.raises(ValueError, match="not one of the kinds of video file"):
        list(decode_video(tmp_path / "list.mp4"))


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mp4", "libx264", FAST).rename("concat:a.mp4")
    assert len(read(Path("concat:a.mp4"))[0]) == FRAMES
