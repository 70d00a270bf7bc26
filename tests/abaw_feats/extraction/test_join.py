from __future__ import annotations

import numpy as np
import pytest

from abaw_feats.extraction import join
from abaw_feats.extraction.join import Holdings, join_files, labels_are_in, merge_files
from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.feature_file import FeatureReader, VideoFeatures, atomic_feature_file
from abaw_seq.errors import UserError
from tests.conftest import backbone_info


def write(path, videos, dims, sha="0" * 64, labelled=False):
    """A feature file; {video: frames}, {backbone: dim}; values depend on video and backbone alone."""
    with atomic_feature_file(path) as writer:
        for name, dim in dims.items():
            writer.add_backbone(name, backbone_info(dim, sha))
        for video, frames in videos.items():
            frames = np.array(frames, np.int32)
            values = {name: values_of(video, name, len(frames), dim) for name, dim in dims.items()}
            labels = np.full((len(frames), 15), 0.5, np.float32) if labelled else None
            split = "train" if labelled else None
            valid = np.ones(len(frames), bool)
            writer.add_video(VideoFeatures(video, frames, valid, values, labels, split, source="there"))
    return path


def values_of(video, backbone, rows, dim):
    seed = sum(map(ord, video + backbone))
    return np.random.default_rng(seed).random((rows, dim)).astype(np.float16)


def read(path):
    with FeatureReader(path) as reader:
        return {video: reader.video(video) for video in reader.videos}


FRAMES = {"v1": [1, 2, 4], "v2": range(1, 6000), "v3": [7]}


def test_shards_and_backbones_of_the_same_videos_become_one_file(tmp_path):
    one = write(tmp_path / "1.h5", {"v1": FRAMES["v1"]}, {"a": 4})
    two = write(tmp_path / "2.h5", {"v3": FRAMES["v3"], "v2": FRAMES["v2"]}, {"a": 4}, labelled=True)
    three = write(tmp_path / "3.h5", {"v2": FRAMES["v2"], "v1": FRAMES["v1"]}, {"b": 2})
    merge_files([one, two, three], tmp_path / "all.h5")
    found = read(tmp_path / "all.h5")
    assert {name: sorted(video.features) for name, video in found.items()} == {
        "v1": ["a", "b"],
        "v2": ["a", "b"],
        "v3": ["a"],
    }
    for name, video in found.items():
        assert video.frames.tolist() == list(FRAMES[name]) and video.source == "there"
        for backbone, values in video.features.items():
            assert np.array_equal(values, values_of(name, backbone, len(video.frames), values.shape[1]))
    assert found["v2"].labels.shape == (5999, 15) and found["v2"].split == "train"
    assert found["v1"].labels is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5", "3.h5", "all.h5"]


def test_the_order_of_files_does_not_change_the_result(tmp_path):
    files = [
        write(tmp_path / "1.h5", {"v1": [1, 2]}, {"a": 4}, labelled=True),
        write(tmp_path / "2.h5", {"v1": [1, 2], "v3": [7]}, {"b": 2}),
    ]
    merge_files(files, tmp_path / "x.h5")
    merge_files(files[::-1], tmp_path / "y.h5")
    one, other = read(tmp_path / "x.h5"), read(tmp_path / "y.h5")
    assert list(one) == list(other)
    for name in one:
        assert np.array_equal(one[name].frames, other[name].frames)
        assert all(np.array_equal(one[name].features[b], other[name].features[b]) for b in one[name].features)
        assert (one[name].labels is None) == (other[name].labels is None) and one[name].split == other[name].split


def test_one_name_for_two_networks_is_refused_and_the_output_stays(tmp_path):
    out = write(tmp_path / "all.h5", {"v1": [1]}, {"a": 4})
    before = out.read_bytes()
    one = write(tmp_path / "1.h5", {"v1": [1, 2]}, {"a": 4})
    two = write(tmp_path / "2.h5", {"v2": [1, 2]}, {"a": 4}, sha="1" * 64)
    with pytest.raises(UserError, match=r"backbone a in .*2.h5 and in .*1.h5 differ in weights_sha256"):
        merge_files([one, two], out)
    assert out.read_bytes() == before and len(list(tmp_path.iterdir())) == 3


def test_other_frames_of_the_same_video_are_refused(tmp_path):
    one = write(tmp_path / "1.h5", {"v1": [1, 2]}, {"a": 4})
    two = write(tmp_path / "2.h5", {"v1": [1, 3]}, {"b": 2})
    with pytest.raises(UserError, match="2.h5: video v1 has other frames.*1.h5"):
        merge_files([one, two], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_the_first_file_counts_where_both_have_the_same_video(tmp_path):
    one = write(tmp_path / "1.h5", {"v1": [1, 2]}, {"a": 4})
    two = write(tmp_path / "2.h5", {"v1": [1, 2], "v2": [5]}, {"a": 4})
    holdings = Holdings([one, two])
    assert holdings.videos == {"v1": {one: ["a"], two: []}, "v2": {two: ["a"]}}
    assert holdings.held("v1") == {"a"} and holdings.held("v9") == set() and holdings.rows == {"v1": 2, "v2": 1}
    merge_files([one, two], one)
    assert sorted(read(one)) == ["v1", "v2"]


def test_more_files_than_may_be_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(join, "OPEN_FILES", 2)
    files = [write(tmp_path / f"{k}.h5", {f"v{k % 3}": [1, 2]}, {f"b{k}": 2}) for k in range(7)]
    merge_files(files, tmp_path / "all.h5")
    assert {name: len(video.features) for name, video in read(tmp_path / "all.h5").items()} == {
        "v0": 3,
        "v1": 2,
        "v2": 2,
    }


def test_labels_are_set_by_frame_number(tmp_path):
    path = write(tmp_path / "1.h5", {"v1": [1, 2, 4], "v2": [1], "v3": [1]}, {"a": 4}, labelled=True)
    labels = np.arange(45, dtype=np.float32).reshape(3, 15)
    known = {
        "v1": VideoLabels(np.array([2, 3, 4], np.int32), labels, "val"),
        "v2": VideoLabels(np.array([9], np.int32), labels[:1], "test"),
    }
    assert not labels_are_in(path, Annotations(known))
    join_files([path], path, annotations=Annotations(known))
    assert labels_are_in(path, Annotations(known))
    found = read(path)
    assert np.isnan(found["v1"].labels[0]).all() and np.array_equal(found["v1"].labels[1:], labels[[0, 2]])
    assert (found["v1"].split, found["v2"].split, found["v3"].split) == ("val", "test", "train")
    assert found["v2"].labels is None and found["v3"].labels[0, 0] == 0.5
