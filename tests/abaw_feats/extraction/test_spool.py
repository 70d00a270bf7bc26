from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from abaw_feats.extraction.batches import Batch, Piece
from abaw_feats.extraction.spool import SpoolWriter, locked_spool
from abaw_feats.reading.frames import VideoSource
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.errors import AbawError, UserError
from tests.conftest import backbone_info

INFOS = {"a": backbone_info(3), "b": backbone_info(2, dtype="float32")}


def video(name, count=4, is_file=False):
    return VideoSource(name, Path("/data") / name, is_file, count, fps=30.0)


def batch_of(*pieces):
    return Batch(list(pieces), [], capacity=16)


def piece(of, frames, ends=True, valid=None, problem=""):
    valid = np.ones(len(frames), bool) if valid is None else np.array(valid, bool)
    return Piece(of, list(frames), [], valid, ends, problem)


def features(seed=0):
    rng = np.random.default_rng(seed)
    return {"a": rng.random((16, 3)).astype(np.float16), "b": rng.random((16, 2)).astype(np.float32)}


def test_a_video_over_several_batches_becomes_one_complete_feature_file(tmp_path):
    with locked_spool(tmp_path / "feats.h5") as spool:
        writer = SpoolWriter(spool, INFOS)
        one, two = features(1), features(2)
        v, w = video("v"), video("..\\w* ", is_file=True)
        writer.write(batch_of(piece(v, [2, 3], ends=False)), {k: x.copy() for k, x in one.items()})
        assert spool.parts() == []
        later = batch_of(piece(v, [5, 9], valid=[True, False]), piece(w, [1, 2, 3]))
        writer.write(later, {k: x.copy() for k, x in two.items()})
        assert len(spool.parts()) == writer.finished == 2 and writer.failures == {}
        features_of = {}
        for part in spool.parts():
            assert part.parent == tmp_path / "feats.h5.parts"
            with FeatureReader(part) as reader:
                assert reader.backbones == INFOS
                features_of |= {name: reader.video(name) for name in reader.videos}
    assert features_of["v"].frames.tolist() == [2, 3, 5, 9] and features_of["v"].valid.tolist() == [1, 1, 1, 0]
    zeros = {"a": np.zeros((1, 3)), "b": np.zeros((1, 2))}
    for name in INFOS:
        expected = np.concatenate([one[name][:2], two[name][:1], zeros[name]])
        assert np.array_equal(features_of["v"].features[name], expected)
        assert np.array_equal(features_of["..\\w* "].features[name], two[name][2:5])
    assert (features_of["v"].fps, features_of["v"].frame_count, features_of["v"].source) == (30.0, None, "/data/v")
    assert features_of["..\\w* "].frame_count == 3


def test_videos_without_a_readable_frame_or_with_a_problem_are_named_and_left_out(tmp_path):
    with locked_spool(tmp_path / "feats.h5") as spool:
        writer = SpoolWriter(spool, INFOS)
        values = features()
        values["a"][6] = np.inf
        writer.write(
            batch_of(
                piece(video("dark"), [1, 2], valid=[False, False]),
                piece(video("empty"), []),
                piece(video("torn"), [1, 2], problem="decoding stopped"),
                piece(video("wild"), [1, 2, 3]),
                piece(video("good"), [1]),
            ),
            values,
        )
        assert set(writer.failures) == {"dark", "empty", "torn", "wild"} and writer.finished == 1
        assert writer.failures["torn"] == "decoding stopped"
        assert "frame 3" in writer.failures["wild"] and "a gives NaN or infinity" in writer.failures["wild"]
        assert len(spool.parts()) == 1


def test_what_was_not_finished_leaves_nothing(tmp_path):
    with locked_spool(tmp_path / "feats.h5") as spool:
        writer = SpoolWriter(spool, INFOS)
        writer.write(batch_of(piece(video("v"), [1], ends=False)), features())
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_a_killed_process_are_swept_and_finished_videos_kept(tmp_path):
    out = tmp_path / "feats.h5"
    with locked_spool(out) as spool:
        SpoolWriter(spool, INFOS).write(batch_of(piece(video("v"), [1])), features())
    (spool.folder / ".v.h5.99.tmp").write_bytes(b"half")
    (tmp_path / ".feats.h5.99.tmp").write_bytes(b"half")
    (tmp_path / ".other.h5.99.tmp").write_bytes(b"not ours")
    with locked_spool(out) as spool:
        assert len(spool.parts()) == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == [".other.h5.99.tmp", "feats.h5.parts"]


def test_a_second_process_is_refused_and_told_who_writes(tmp_path):
    with locked_spool(tmp_path / "feats.h5"):
        with pytest.raises(UserError, match=f"feats.h5: process {os.getpid()} on .* is writing it"):
            with locked_spool(tmp_path / "feats.h5"):
                pass
        with locked_spool(tmp_path / "other.h5"):
            pass
    with locked_spool(tmp_path / "feats.h5"):
        pass


HOLDER = """
import sys, time
from abaw_feats.extraction.spool import locked_spool
with locked_spool(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "feats.h5")]
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": root}) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on .* is writing it"):
            with locked_spool(tmp_path / "feats.h5"):
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked_spool(tmp_path / "feats.h5"):
            pass


def test_a_folder_that_another_process_deletes_meanwhile_is_made_again(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def flock(handle, operation):
        calls.append(operation)
        if len(calls) == 1:
            shutil.rmtree(tmp_path / "feats.h5.parts")
        return real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked_spool(tmp_path / "feats.h5") as spool:
        assert (spool.folder / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_failed_write_ends_the_writing_for_good(tmp_path, monkeypatch):
    with locked_spool(tmp_path / "feats.h5") as spool:
        writer = SpoolWriter(spool, INFOS)
        v = video("v")
        writer.write(batch_of(piece(v, [1], ends=False)), features())
        with monkeypatch.context() as patch:
            patch.setattr(writer._part, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
            with pytest.raises(AbawError, match="feats.h5: could not be written .No space"):
                writer.write(batch_of(piece(v, [2], ends=False)), features())
        writer.write(batch_of(piece(v, [3])), features())  # must not become a video without frame 2
        assert spool.parts() == []
        writer.close()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from abaw_feats.extraction.batches import Piece
from abaw_feats.reading.frames import VideoSource
from abaw_feats.extraction.spool import SpoolWriter, locked_spool
from abaw_seq.data.feature_file import BackboneInfo
from abaw_seq.errors import AbawError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that may not grow any more: as on a full disk
info = BackboneInfo(3, "toy", "w.pt", "0" * 64, {}, "avg", "float32", "now")

def write(writer, name, frames, ends):
    video = VideoSource(name, Path(name), False, 1)
    valid = np.ones(len(frames), bool)
    piece = Piece(video, frames, valid=valid, ends=ends)
    writer.write(SimpleNamespace(pieces=[piece]), {"toy": np.ones((len(frames), 3), np.float32)})

for limit in map(int, sys.argv[1:]):
    with locked_spool(f"{limit}.h5") as spool:
        write(SpoolWriter(spool, {"toy": info}), "first", [1], True)
        writer = SpoolWriter(spool, {"toy": info})
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            for k in range(500):
                write(writer, "long", list(range(16 * k, 16 * k + 16)), k == 499)
        except AbawError as error:
            print(error)
        writer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_costs_only_the_video_under_way(tmp_path):
    limits = ["8192", "60000", "120000", "140000", "200000"]
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", FULL_DISK, *limits]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": root})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{limit}.h5" for limit in limits]
    assert all("could not be written" in line for line in lines)
    for limit in limits:
        folder = tmp_path / f"{limit}.h5.parts"
        (part,) = folder.glob("*.h5")
        with FeatureReader(part) as reader:
            assert reader.videos == ("first",) and reader.video("first").frames.tolist() == [1]
        assert not list(folder.glob(".*"))


def _nothing_can_be_made(path, **_):
    """As /proc answers."""
    raise FileNotFoundError(2, "No such file or directory", str(path))


@pytest.mark.parametrize("case", ["folder", "file as parent", "read-only", "no folders there"])
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path, case, monkeypatch):
    out = tmp_path / "sub" / "feats.h5"
    if case == "folder":
        out.mkdir(parents=True)
    elif case == "file as parent":
        out.parent.write_text("")
    elif case == "read-only":
        out.parent.mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    elif case == "no folders there":
        out.parent.mkdir()
        monkeypatch.setattr(Path, "mkdir", _nothing_can_be_made)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"feats.h5(.parts)?: "):
        with locked_spool(out):
            pass
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_an_output_is_made(tmp_path):
    with locked_spool(tmp_path / "not" / "there" / "feats.h5") as spool:
        assert spool.folder.is_dir()
    assert [path.name for path in tmp_path.rglob("*")] == ["not", "there"]
