import numpy as np

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.labelling import label_feature_file


def labels_of(frames, split, value):
    frames = np.asarray(frames, np.int32)
    return VideoLabels(frames, np.full((len(frames), 15), value, np.float32), split)


def test_labels_are_aligned_by_frame_number_and_counted(toy_feats, tmp_path):
    with FeatureReader(toy_feats) as reader:
        numbers = reader.frames("train0")
        before = reader.video("train1")
        total = sum(reader.rows(v) for v in reader.videos)
    known = Annotations(
        {
            "train0": labels_of([*numbers[:10], 100_000], "val", 0.5),
            "elsewhere": labels_of([1, 2], "val", 0.5),
        }
    )
    out = tmp_path / "labelled.h5"
    header, rows = label_feature_file(toy_feats, known, out)
    with FeatureReader(out) as reader:
        assert reader.split("train0") == "val"
        labels = reader.labels("train0")
        np.testing.assert_array_equal(labels[:10], np.full((10, 15), 0.5))
        assert np.isnan(labels[10:]).all()
        untouched = reader.video("train1")
        np.testing.assert_array_equal(untouched.labels, before.labels)
        np.testing.assert_array_equal(untouched.features["toy"], before.features["toy"])
    assert rows[0] == ["val", "1", "150", "10", "3", "1"]
    assert rows[1][:3] == ["none", "8", f"{total - 150:,}"]
    assert len(header) == len(rows[0])


def test_a_file_can_be_labelled_in_place(toy_feats, tmp_path):
    own = tmp_path / "own.h5"
    own.write_bytes(toy_feats.read_bytes())
    label_feature_file(own, Annotations({"val0": labels_of([1], "test", 0.0)}), own)
    with FeatureReader(own) as reader:
        assert reader.split("val0") == "test" and len(reader.videos) == 9
    assert [p.name for p in tmp_path.iterdir()] == ["own.h5"]
