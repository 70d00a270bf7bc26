"""Videos that have changed since their extraction are extracted again; those that were only copied are not."""

from __future__ import annotations

import logging
import os
import shutil

import h5py
import numpy as np
import pytest

from abaw_feats.extraction.encoders import Encoder
from abaw_feats.extraction.extract import extract
from abaw_feats.extraction.join import merge_files
from abaw_feats.extraction.spool import Spool
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.source_record import SourceRecord
from abaw_seq.errors import AbawError, UserError
from tests.abaw_feats.tiny_videos import picture, write_frames, write_networks, write_noisy_video, write_video


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "videos"
    for seed, name in enumerate("ab"):
        write_frames(root / name, range(1, 5), seed=seed)
    write_video(root / "clip.mp4", frames=6)
    return root


def run(out, root, networks, **settings):
    names = {path.stem: "random" for path in networks}
    settings = {"weights": names, "precision": "fp32", "device": "cpu", "dtype": "float32", **settings}
    extract(backbones=[str(path) for path in networks], videos=root, out=out, **settings)


def read(path):
    with FeatureReader(path) as reader:
        return {video: reader.video(video) for video in reader.videos}


def assert_as_new(out, root, networks):
    """The features equal those of an extraction into a new file."""
    fresh = out.with_name("fresh.h5")
    fresh.unlink(missing_ok=True)
    run(fresh, root, networks)
    expected, written = read(fresh), read(out)
    assert written.keys() == expected.keys()
    for name, video in expected.items():
        np.testing.assert_array_equal(written[name].frames, video.frames)
        np.testing.assert_array_equal(written[name].valid, video.valid)
        assert written[name].record == video.record
        for backbone, values in video.features.items():
            np.testing.assert_allclose(written[name].features[backbone], values, atol=2e-5, rtol=1e-4)


def repair_a_frame(root):
    picture(77).save(root / "a" / "00002.png")


def add_a_frame(root):
    picture(78).save(root / "a" / "00009.png")


def remove_a_frame(root):
    (root / "a" / "00001.png").unlink()


def make_crops_anew_of_equal_size(root):
    # Same names and numbers of bytes: only the times and the contents differ.
    for number in range(1, 5):
        data = picture(number + 50).convert("RGB")
        data.save(root / "a" / f"{number:05d}.bmp")
        (root / "a" / f"{number:05d}.png").unlink()


def replace_the_video_file(root):
    write_video(root / "clip.mp4", frames=9)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (repair_a_frame, "a"),
        (add_a_frame, "a"),
        (remove_a_frame, "a"),
        (make_crops_anew_of_equal_size, "a"),
        (replace_the_video_file, "clip"),
    ],
)
def test_what_has_changed_is_extracted_again_and_named(root, networks, tmp_path, change, name, caplog, monkeypatch):
    out = tmp_path / "feats.h5"
    run(out, root, networks)
    change(root)
    caplog.clear()
    rows = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, *a: rows.append(a[2]) or encode(self, *a))
    run(out, root, networks)
    assert f"1 videos have changed since they were extracted, and are extracted again: {name}" in caplog.text
    assert sum(rows) == 2 * len(read(out)[name].frames)
    assert_as_new(out, root, networks)
    before = out.read_bytes()
    run(out, root, networks)
    assert out.read_bytes() == before


def test_bytes_of_equal_number_changed_in_place_are_noticed(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    for number in range(1, 5):
        picture(number).save(root / "a" / f"{number:05d}.bmp")
        (root / "a" / f"{number:05d}.png").unlink()
    run(out, root, networks)
    old = read(out)["a"].features["tiny"].copy()
    picture(99).save(root / "a" / "00003.bmp")
    run(out, root, networks)
    assert (read(out)["a"].features["tiny"] != old).any(1).tolist() == [False, False, True, False]


def test_a_copy_with_other_times_is_not_extracted_again_and_not_compared_twice(root, networks, tmp_path, monkeypatch):
    out = tmp_path / "feats.h5"
    run(out, root, networks)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    os.utime(copy / "a" / "00001.png", (1, 1))
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("computed again"))
    run(out, copy, networks)
    compared = []
    monkeypatch.setattr("abaw_feats.extraction.changes.content_now", lambda video: compared.append(video.name))
    run(out, copy, networks)
    assert compared == []


def test_the_features_of_a_changed_video_stay_until_the_new_ones_are_there(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    run(out, root, networks)
    before = read(out)["clip"]
    (root / "clip.mp4").write_bytes(b"no video any more")
    with pytest.raises(AbawError, match="1 of 3 videos could not be extracted: clip"):
        run(out, root, networks)
    np.testing.assert_array_equal(read(out)["clip"].features["tiny"], before.features["tiny"])
    write_video(root / "clip.mp4", frames=7)
    run(out, root, networks)
    assert_as_new(out, root, networks)


def test_a_changed_video_of_which_other_backbones_are_stored_is_refused(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    run(out, root, networks)
    repair_a_frame(root)
    before = out.read_bytes()
    with pytest.raises(AbawError, match="1 of 3 videos could not be extracted: a"):
        run(out, root, networks[:1])
    assert out.read_bytes() == before
    run(out, root, networks)
    assert_as_new(out, root, networks)


def test_labels_of_a_changed_video_stay_with_their_frame_numbers(root, networks, tmp_path):
    out = tmp_path / "feats.h5"
    annotations = tmp_path / "training_set_annotations.txt"
    lines = [f"a/{number:05d}.png,0.{number},0,4" + ",1" * 12 for number in range(1, 5)]
    annotations.write_text("image,valence,arousal,expression,aus\n" + "\n".join(lines) + "\n")
    run(out, root, networks, annotations=[annotations])
    remove_a_frame(root)
    add_a_frame(root)
    run(out, root, networks)
    video = read(out)["a"]
    assert video.frames.tolist() == [2, 3, 4, 9] and video.split == "train"
    np.testing.assert_allclose(video.labels[:, 0], [0.2, 0.3, 0.4, np.nan], rtol=1e-6)


def test_an_interrupted_extraction_goes_on_with_the_files_as_they_are_now(root, networks, tmp_path, monkeypatch):
    out = tmp_path / "feats.h5"
    run(out, root, networks)
    repair_a_frame(root)
    monkeypatch.setattr("abaw_feats.extraction.extract.join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(out, root, networks)
    monkeypatch.undo()
    assert len(Spool(out).parts()) == 1
    picture(123).save(root / "a" / "00003.png")  # the part in the spool is outdated as well
    monkeypatch.setattr("abaw_feats.extraction.extract.join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(out, root, networks)
    monkeypatch.undo()
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("computed again"))
    run(out, root, networks)
    monkeypatch.undo()
    assert_as_new(out, root, networks)


def test_a_shard_extracts_again_what_changed_in_it(root, networks, tmp_path):
    shards = [tmp_path / f"{k}.h5" for k in (1, 2)]
    for _ in range(2):
        for k, shard in enumerate(shards, 1):
            run(shard, root, networks, shard=(k, 2))
        repair_a_frame(root)
    for k, shard in enumerate(shards, 1):
        run(shard, root, networks, shard=(k, 2))
    merge_files(shards, tmp_path / "feats.h5")
    assert_as_new(tmp_path / "feats.h5", root, networks)


def test_features_of_other_images_are_not_joined(root, networks, tmp_path):
    run(tmp_path / "1.h5", root, networks[:1])
    repair_a_frame(root)
    run(tmp_path / "2.h5", root, networks[1:])
    with pytest.raises(UserError, match="2.h5: video a has other frames"):
        merge_files([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "both.h5")


def test_files_of_older_versions_are_added_to_as_before(root, networks, tmp_path, monkeypatch):
    out = tmp_path / "feats.h5"
    run(out, root, networks[:1])
    with h5py.File(out, "r+") as file:
        for video in file["videos"].values():
            for key in ("stamp", "content"):
                del video.attrs[key]
    run(out, root, networks)
    written = read(out)
    assert all(video.features.keys() == {"tiny", "grey"} for video in written.values())
    repair_a_frame(root)
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("computed again"))
    run(out, root, networks)


def test_what_could_not_be_read_is_told_now_and_later(root, networks, tmp_path, caplog):
    out = tmp_path / "feats.h5"
    (root / "a" / "00002.png").write_bytes(b"")
    (root / "a" / "00003.png").write_bytes(b"hello")
    (root / "a" / "00004.png").write_bytes((root / "a" / "00001.png").read_bytes()[:60])
    for _ in range(2):
        caplog.clear()
        run(out, root, networks)
        told = caplog.text
        assert "a: 3 unreadable (valid = false): frames 2-4" in told
        assert "an empty file" in told and "not an image of a known format (1 frame)" in told
        assert "unreadable image: " in told


def test_a_file_that_breaks_off_is_kept_and_an_error_now_and_later(root, networks, tmp_path, caplog):
    out = tmp_path / "feats.h5"
    data = write_noisy_video(root / "clip.avi", "mjpeg", {}, frames=20).read_bytes()
    (root / "clip.mp4").unlink()
    (root / "clip.avi").write_bytes(data[: int(len(data) * 0.5)])
    for _ in range(2):
        caplog.clear()
        with pytest.raises(AbawError, match="1 of 3 videos break off before their end: clip") as error:
            run(out, root, networks)
        assert error.value.exit_code == 1
        read_so_far = len(read(out)["clip"].frames)
        assert 0 < read_so_far < 20
        assert f"clip: the file breaks off: {read_so_far} of 20 frames could be read" in caplog.text
    (root / "clip.avi").write_bytes(data)
    run(out, root, networks)
    assert_as_new(out, root, networks)


@pytest.mark.parametrize("text", ["[1]", '{"a": "b"}', "{", "null"])
def test_a_damaged_record_is_not_known(text):
    attributes = {"stamp": 3, "content": "abc", "unreadable": text}
    assert SourceRecord.from_attributes(attributes) == SourceRecord(content="abc")


def test_a_record_comes_back_from_its_attributes():
    record = SourceRecord("s", "c", "the file breaks off", {"no such file": 2})
    assert SourceRecord.from_attributes(record.to_attributes()) == record
    assert SourceRecord().to_attributes() == {}


def test_logging_is_quiet_when_nothing_has_changed(root, networks, tmp_path, caplog):
    run(tmp_path / "feats.h5", root, networks)
    caplog.clear()
    run(tmp_path / "feats.h5", root, networks)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
