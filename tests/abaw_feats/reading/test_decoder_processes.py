"""Decoder processes give what threads give, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from abaw_feats.reading.decoder_processes import DecoderProcess, Decoders, read_image
from abaw_seq.errors import AbawError
from tests.abaw_feats.tiny_videos import picture, write_frames

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    """Frames of two sizes, a broken one, a folder, one that is absent."""
    folder = write_frames(tmp_path_factory.mktemp("frames") / "v", range(1, 6))
    picture(6, (100, 60)).save(folder / "00006.png")
    (folder / "00007.png").write_bytes(b"\x89PNG")
    (folder / "00008.png").mkdir()
    return [*map(str, sorted(folder.iterdir())), str(folder / "00009.png")]


@pytest.mark.parametrize("size", [10_000_000, 10_000, 1])
def test_a_process_decodes_as_the_caller_would_whatever_fits_into_its_memory(paths, size):
    with Decoders(1, size) as decoders, decoders.decoded(paths) as outcomes:
        for path, (outcome, state) in zip(paths, outcomes, strict=True):
            alone, expected = read_image(path)
            assert state == expected
            if isinstance(alone, np.ndarray):
                np.testing.assert_array_equal(outcome, alone)
            else:
                assert type(outcome) is type(alone) and str(outcome) == str(alone)
    assert sum(isinstance(outcome, np.ndarray) for outcome, _ in outcomes) == 6


def test_what_a_process_remarks_is_said_once_by_its_parent(tmp_path, caplog, capfd):
    from abaw_feats.reading.decoding import say_once

    say_once.cache_clear()
    for number in (1, 2):
        Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(tmp_path / f"{number}.png")
    with Decoders(1, 10_000_000) as decoders:
        for number in (1, 2):
            with decoders.decoded([str(tmp_path / f"{number}.png")]) as ((pixels, _),):
                assert (pixels == 11).all()
    assert [record.message[:13] for record in caplog.records] == ["16-bit images"]
    assert capfd.readouterr().err.count("16-bit images") <= 1  # the parent's own line, where it shows messages


def test_memory_is_used_again_by_the_next_call(paths):
    with Decoders(1, 10_000_000) as decoders:
        for path in paths[:5]:
            with decoders.decoded([path]) as ((outcome, _),):
                np.testing.assert_array_equal(outcome, read_image(path)[0])


def test_a_process_that_dies_is_said_with_the_images_it_was_at(paths):
    before = psutil.Process().children()
    process = DecoderProcess(1000)
    (child,) = (child for child in psutil.Process().children() if child not in before)
    child.kill()
    child.wait()
    with pytest.raises(AbawError, match=f"ended by itself.*{paths[0]} or one of the next 8"):
        with process.decoded(paths):
            pass
    process.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_is_left_when_the_parent_ends(paths, end):
    program = f"""
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
from abaw_feats.reading.decoder_processes import Decoders
with Decoders(2, 1000) as decoders:
    with decoders.decoded({paths[:2]!r}):
        print("ready", flush=True)
        time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert parent.stdout and parent.stdout.readline() == b"ready\n"
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    os.kill(parent.pid, end)
    parent.wait(10)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_decoder_process_imports_no_torch():
    program = "import sys, abaw_feats.reading.decoder_processes; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
