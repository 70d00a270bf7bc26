from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from abaw_feats.backbones import find_spec, load
from abaw_feats.extraction import extract as engine
from abaw_feats.extraction.encoders import Encoder
from abaw_feats.extraction.extract import extract, ranges
from abaw_feats.reading.images import preprocess
from abaw_seq.data.feature_file import FeatureReader, VideoFeatures
from abaw_seq.errors import AbawError, UserError
from tests.abaw_feats.tiny_videos import picture, write_frames, write_networks, write_video

# Starts processes that have everything imported already.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.abaw_feats.extraction.test_extract"])
LENGTHS = {"1-25-64x64": 9, "video2_left": 4, "video2_right": 17, "z": 1}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames") / "cropped_aligned"
    for seed, (name, count) in enumerate(LENGTHS.items()):
        write_frames(root / name, range(1, count + 1), seed=seed)
    return root


def run(out, videos, networks, **settings):
    weights = {path.stem: "random" for path in networks}
    settings = {"weights": weights, "precision": "fp32", "device": "cpu", **settings}
    extract(backbones=[str(path) for path in networks], videos=videos, out=out, **settings)


def read(path) -> dict[str, VideoFeatures]:
    with FeatureReader(path) as reader:
        return {video: reader.video(video) for video in reader.videos}


def same(one, other):
    """Whether two files hold the same videos, frames and features, bit for bit."""
    if list(one) != list(other):
        return False
    pairs = [(one[name], other[name]) for name in one]
    return all(
        np.array_equal(a.frames, b.frames)
        and np.array_equal(a.valid, b.valid)
        and a.features.keys() == b.features.keys()
        and all(np.array_equal(a.features[key], b.features[key]) for key in a.features)
        for a, b in pairs
    )


@pytest.fixture(scope="module")
def whole(root, networks, tmp_path_factory):
    """What an uninterrupted run gives."""
    out = tmp_path_factory.mktemp("whole") / "feats.h5"
    run(out, [root], networks)
    return read(out)


def test_features_are_those_of_one_frame_at_a_time(root, networks, tmp_path):
    run(tmp_path / "feats.h5", [root], networks, dtype="float32", batch_size=5)
    written = read(tmp_path / "feats.h5")
    assert list(written) == sorted(LENGTHS)
    for path in networks:
        backbone = load(find_spec(path), "random")
        for name, video in written.items():
            assert video.frames.tolist() == list(range(1, LENGTHS[name] + 1)) and video.valid.all()
            for row, frame in enumerate(video.frames):
                image = np.array(Image.open(root / name / f"{frame:05d}.png"))
                with torch.no_grad():
                    x = preprocess(torch.from_numpy(image)[None], backbone.spec.preprocessing)
                    expected = backbone.module(x)[0].numpy()
                stored = video.features[path.stem][row]
                np.testing.assert_allclose(stored, expected, atol=2e-5, rtol=1e-4)
    assert written["1-25-64x64"].fps == 25 and written["z"].source == str(root / "z")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_features_do_not_depend_on_the_batch(root, networks, whole, tmp_path, batch_size):
    run(tmp_path / "feats.h5", [root], networks, batch_size=batch_size)
    written = read(tmp_path / "feats.h5")
    for name, video in written.items():
        for backbone, values in video.features.items():
            np.testing.assert_allclose(values, whole[name].features[backbone], atol=2e-3)


def test_nothing_is_left_beside_the_output(root, networks, tmp_path):
    run(tmp_path / "feats.h5", [root], networks)
    assert [path.name for path in tmp_path.iterdir()] == ["feats.h5"]


def test_running_again_computes_nothing_and_leaves_the_file_alone(root, networks, tmp_path, monkeypatch):
    out = tmp_path / "feats.h5"
    run(out, [root], networks)
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("computed again"))
    run(out, [root], networks)
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_missing_videos_and_backbones_are_added_and_the_rest_is_not_computed(
    root, networks, whole, tmp_path, monkeypatch
):
    out = tmp_path / "feats.h5"
    computed = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, *a: computed.append(self.name) or encode(self, *a))
    run(out, [root / "z", root / "video2_left"], networks[:1])
    assert set(read(out)) == {"z", "video2_left"}
    run(out, [root], networks[:1], batch_size=64)
    assert computed == ["tiny", "tiny"] and set(read(out)) == set(LENGTHS)
    run(out, [root], networks, batch_size=64)
    assert computed == ["tiny", "tiny", "grey"]
    written = read(out)
    for name, video in written.items():
        assert video.features.keys() == {"tiny", "grey"}
        for backbone, values in video.features.items():
            np.testing.assert_allclose(values, whole[name].features[backbone], atol=2e-3)


def test_two_networks_never_mix_under_one_name(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    run(out, [root / "z"], networks[:1])
    before = out.read_bytes()
    with pytest.raises(UserError, match="backbone tiny in this command .* differ in weights_sha256"):
        run(out, [root], networks[:1], weights={"tiny": "random:1"})
    with pytest.raises(UserError, match="differ in dtype"):
        run(out, [root], networks[:1], dtype="float32")
    other = tmp_path / "tiny.yaml"
    other.write_text(networks[0].read_text().replace("size: 32", "size: 40"))
    with pytest.raises(UserError, match="differ in"):
        run(out, [root], [other])
    assert out.read_bytes() == before and not (tmp_path / "feats.h5.parts").exists()


def test_a_repeated_run_keeps_the_type_of_the_file(root, networks, tmp_path):
    run(tmp_path / "feats.h5", [root / "z"], networks[:1], dtype="float32")
    run(tmp_path / "feats.h5", [root], networks[:1])
    assert {video.features["tiny"].dtype.name for video in read(tmp_path / "feats.h5").values()} == {"float32"}


def test_mixed_sizes_grey_images_and_video_files(networks, tmp_path):
    folder = write_frames(tmp_path / "v" / "mixed", [1, 2], size=(50, 40))
    picture(3, (20, 70)).save(folder / "00003.png")
    picture(4).convert("L").save(folder / "00004.jpg")
    write_video(tmp_path / "v" / "clip.mp4", frames=11)
    run(tmp_path / "feats.h5", [tmp_path / "v"], networks, dtype="float32")
    run(tmp_path / "alone.h5", [tmp_path / "v"], networks, dtype="float32", batch_size=1)
    written, alone = read(tmp_path / "feats.h5"), read(tmp_path / "alone.h5")
    assert written["clip"].frames.tolist() == list(range(1, 12))
    assert (written["clip"].fps, written["clip"].frame_count, written["mixed"].frame_count) == (25.0, 11, None)
    for name, video in written.items():
        for backbone, values in video.features.items():
            np.testing.assert_allclose(values, alone[name].features[backbone], atol=2e-5, rtol=1e-4)


@pytest.fixture
def damaged(tmp_path):
    """A good video, one with broken frames, one of broken frames only, an empty one, a broken file."""
    root = tmp_path / "videos"
    write_frames(root / "good", range(1, 6))
    broken = write_frames(root / "holes", range(1, 8))
    for number in (2, 3, 6):
        (broken / f"{number:05d}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_frames(root / "dark", [1])
    (root / "dark" / "00001.png").write_bytes(b"")
    (root / "empty").mkdir()
    (root / "torn.mp4").write_bytes(b"no video" * 99)
    return root


def test_bad_frames_are_flagged_and_bad_videos_named(damaged, networks, tmp_path, capsys):
    with pytest.raises(AbawError, match="3 of 5 videos could not be extracted: dark, empty, torn") as error:
        run(tmp_path / "feats.h5", [damaged], networks)
    assert error.value.exit_code == 1
    written = read(tmp_path / "feats.h5")
    assert set(written) == {"good", "holes"}
    assert written["holes"].valid.tolist() == [True, False, False, True, True, False, True]
    for values in written["holes"].features.values():
        assert (values[~written["holes"].valid] == 0).all() and np.abs(values[written["holes"].valid]).min(1).any()
    said = capsys.readouterr().err
    assert "holes: 3 unreadable (valid = false): frames 2-3, 6" in said
    assert "empty: left out, it has no frames" in said and "torn: left out, not decodable" in said


def test_strict_fails_on_a_broken_frame_now_and_later(damaged, networks, tmp_path):
    for _ in range(2):
        with pytest.raises(AbawError, match="strict: 3 frames of 1 videos"):
            run(tmp_path / "feats.h5", [damaged / "holes", damaged / "good"], networks, strict=True)
    run(tmp_path / "feats.h5", [damaged / "holes", damaged / "good"], networks)
    run(tmp_path / "feats.h5", [damaged / "good"], networks, strict=True)


def test_a_folder_that_has_changed_since_is_named_where_the_file_does_not_know_its_state(networks, tmp_path):
    folder = write_frames(tmp_path / "v", [1, 2, 3])
    run(tmp_path / "feats.h5", [folder], networks[:1])
    with h5py.File(tmp_path / "feats.h5", "r+") as file:  # as older versions wrote it
        del file["videos/v"].attrs["stamp"], file["videos/v"].attrs["content"]
    run(tmp_path / "feats.h5", [folder], networks[:1])
    picture(9).save(folder / "00004.png")
    with pytest.raises(AbawError, match="1 of 1 videos .*: v"):
        run(tmp_path / "feats.h5", [folder], networks)
    assert read(tmp_path / "feats.h5")["v"].features.keys() == {"tiny"}


def test_labels_and_splits_come_with_annotations_also_later(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    run(out, [root], networks[:1])
    assert read(out)["z"].labels is None
    header = "image,valence,arousal,expression,aus\n"
    train, val = tmp_path / "training_set_annotations.txt", tmp_path / "validation_set_annotations.txt"
    train.write_text(header + "video2_left/00003.jpg,0.25,-0.5,4" + ",1" * 12 + "\n")
    val.write_text(header + "z/00001.jpg,-5,-5,-1" + ",-1" * 12 + "\nabsent/00001.jpg,0,0,1" + ",0" * 12 + "\n")
    run(out, [root / "z"], networks[:1], annotations=[train, val])
    written = read(out)
    assert set(written) == set(LENGTHS)
    assert (written["video2_left"].split, written["z"].split, written["video2_right"].split) == ("train", "val", None)
    assert written["video2_left"].labels[2].tolist() == [0.25, -0.5, 4.0] + [1.0] * 12
    assert np.isnan(written["video2_left"].labels[[0, 1, 3]]).all() and written["video2_right"].labels is None
    run(out, [root], networks)
    assert read(out)["video2_left"].labels[2, 2] == 4.0


def test_shards_together_are_the_whole(root, networks, whole, tmp_path):
    from abaw_feats.extraction.join import merge_files

    files = [tmp_path / f"{k}.h5" for k in (1, 2, 3)]
    for k, path in enumerate(files, start=1):
        run(path, [root], networks, shard=(k, 3))
    assert sorted(len(read(path)) for path in files) == [1, 1, 2]
    merge_files(files, tmp_path / "all.h5")
    assert same(read(tmp_path / "all.h5"), whole)


def test_a_shard_beyond_the_number_of_videos_is_empty_and_fine(root, networks, tmp_path):
    run(tmp_path / "feats.h5", [root], networks, shard=(9, 9))
    assert not (tmp_path / "feats.h5").exists()


def test_several_processes_under_torchrun_write_the_same_file(root, networks, whole, tmp_path):
    arguments = ["--backbone", *map(str, networks), "--weights", "tiny=random", "grey=random"]
    arguments += ["--videos", str(root), "--precision", "fp32", "--device", "cpu", "-o", str(tmp_path / "feats.h5")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "abaw_feats", "extract", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], env=environment)
    assert done.returncode == 0, done.stderr
    assert same(read(tmp_path / "feats.h5"), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["feats.h5"]


def _extract_slowly(out, root, networks):
    """In a process of its own: the run that gets killed."""
    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")
    encode = Encoder.encode
    engine.Encoder.encode = lambda self, *args: time.sleep(0.005) or encode(self, *args)
    run(out, [root], networks, batch_size=4)


def _type_the_command(arguments, errors):
    """In a process of its own: `abaw-extract` with a slow network."""
    from abaw_feats.cli import extract as command

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    torch.set_num_threads(1)
    sys.stderr = open(errors, "w", buffering=1)
    encode = Encoder.encode
    engine.Encoder.encode = lambda self, *args: time.sleep(0.05) or encode(self, *args)
    command(arguments)


def test_ctrl_c_ends_with_one_line_and_keeps_finished_videos(root, networks, whole, tmp_path):
    out, errors = tmp_path / "feats.h5", tmp_path / "errors.txt"
    parts = tmp_path / "feats.h5.parts"
    arguments = ["--backbone", *map(str, networks), "--weights", "tiny=random", "grey=random", "-o", str(out)]
    arguments += ["--videos", str(root), "--precision", "fp32", "--device", "cpu", "--batch-size", "2"]
    process = SERVER.Process(target=_type_the_command, args=(arguments, errors))
    process.start()
    while not (kept := list(parts.glob("[!.]*.h5"))):
        time.sleep(0.01)
        assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join()
    said = errors.read_text().splitlines()
    assert process.exitcode == 130 and said[-1].startswith("interrupted: what was finished is kept")
    assert "Traceback" not in "".join(said) and not out.exists()
    assert {path.name for path in parts.iterdir()} >= {kept[0].name} and not list(parts.glob(".*"))
    run(out, [root], networks, batch_size=2)
    for name, video in read(out).items():
        np.testing.assert_allclose(video.features["tiny"], whole[name].features["tiny"], atol=2e-3)


def test_killed_at_thirty_random_moments_the_file_ends_equal_to_an_uninterrupted_run(networks, tmp_path):
    root = tmp_path / "videos"
    for seed in range(6):
        write_frames(root / f"v{seed}", range(1, 3 + 2 * seed), seed=seed, size=(16, 16))

    def start(out):
        process = SERVER.Process(target=_extract_slowly, args=(out, root, networks[:1]))
        process.start()
        return process

    start(tmp_path / "first.h5").join()  # the server itself starts here
    begun = time.monotonic()
    process = start(tmp_path / "whole.h5")
    process.join()
    seconds = time.monotonic() - begun
    uninterrupted = read(tmp_path / "whole.h5")
    assert process.exitcode == 0 and len(uninterrupted) == 6

    out, rng, kills, ends = tmp_path / "feats.h5", random.Random(0), 0, 0
    finished: set[str] = set()
    while kills < 30 or ends < 2 or not out.exists():  # on a machine that slows down, few runs come to their end
        process = start(out)
        process.join(rng.uniform(0, seconds) if kills < 30 else None)
        killed = process.is_alive()
        process.kill()
        process.join()
        kills += killed
        here = {path.name for path in (tmp_path / "feats.h5.parts").glob("[!.]*.h5")}
        if out.exists():
            assert same(read(out), uninterrupted)
            finished = set()
            ends += 1
            if kills < 30 or ends < 2:
                out.unlink()
        else:
            assert finished <= here, "a finished video was lost"
            finished = here
            for name in here:
                ((video, values),) = read(tmp_path / "feats.h5.parts" / name).items()
                assert same({video: values}, {video: uninterrupted[video]})
    assert same(read(out), uninterrupted)


def test_ranges():
    assert ranges(np.array([3, 4, 5, 9])) == "3-5, 9"
    assert ranges(np.array([7])) == "7"
    assert ranges(np.arange(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, 14, ..."


def test_which_videos_got_labels_is_said(root, networks, tmp_path, caplog):
    folder = tmp_path / "annotations" / "VA_Set" / "Train_Set"
    folder.mkdir(parents=True)
    for name in ("video2_left", "video2"):
        (folder / f"{name}.txt").write_text("valence,arousal\n" + "0.5,0\n" * 4)
    with caplog.at_level("INFO"):
        run(tmp_path / "f.h5", root, networks[:1], annotations=tmp_path / "annotations")
    assert "labels: 1 of 4 videos, 4 of 31 frames" in caplog.text
    assert "3 videos are not annotated: 1-25-64x64, video2_right (video2?), z" in caplog.text
    assert "1 annotated videos are not among these: video2 (video2_right?)" in caplog.text


def test_frames_counted_from_0_keep_their_numbers_and_get_the_labels_of_their_lines(networks, tmp_path):
    write_frames(tmp_path / "frames" / "v", range(3))
    folder = tmp_path / "annotations" / "VA_Set" / "Train_Set"
    folder.mkdir(parents=True)
    (folder / "v.txt").write_text("valence,arousal\n0,0\n0.1,0\n0.2,0\n")
    for _ in range(2):  # the second time nothing is new
        run(tmp_path / "f.h5", tmp_path / "frames", networks[:1], annotations=tmp_path / "annotations")
        video = read(tmp_path / "f.h5")["v"]
        assert video.frames.tolist() == [0, 1, 2]
        np.testing.assert_allclose(video.labels[:, 0], [0, 0.1, 0.2])
