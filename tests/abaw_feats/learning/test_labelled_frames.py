import numpy as np
import pytest
import torch

from abaw_feats.learning.labelled_frames import SourceConfig, gather_frames
from abaw_seq.data.annotations import write_mtl_annotations
from abaw_seq.errors import UserError
from abaw_seq.tasks import TASKS
from tests.abaw_feats.tiny_faces import write_faces
from tests.abaw_feats.tiny_videos import write_frames


def labels_of(videos: dict[str, float], frames: int = 3) -> list[tuple[str, np.ndarray]]:
    return [
        (f"{video}/{number:05d}.png", np.array([valence, 0.0, 1, *[1.0] * 12], np.float32))
        for video, valence in videos.items()
        for number in range(1, frames + 1)
    ]


def test_labelled_videos_without_a_split_train_and_those_of_the_test_split_never(tmp_path):
    for video in ("a", "b", "c", "d", "unknown"):
        write_frames(tmp_path / "faces" / video, range(1, 4))
    files = {"training_set": {"a": 0.1}, "some": {"b": 0.2}, "validation_set": {"c": 0.3}, "test_set": {"d": 0.4}}
    (tmp_path / "labels").mkdir()
    for name, videos in files.items():
        write_mtl_annotations(tmp_path / "labels" / f"{name}_annotations.txt", labels_of(videos))
    source = SourceConfig((str(tmp_path / "faces"),), (str(tmp_path / "labels"),))
    for unlabelled in (False, True):
        frames = gather_frames([source], tuple(TASKS), unlabelled=unlabelled)
        assert [frames.index.path(row).parent.name for row in frames.training] == ["a"] * 3 + ["b"] * 3
        assert [frames.index.path(row).parent.name for row in frames.validation] == ["c"] * 3
        torch.testing.assert_close(frames.labels[frames.training, 0], torch.tensor([0.1] * 3 + [0.2] * 3))


def test_labels_of_the_same_frame_can_be_shared(tmp_path):
    one = write_faces(tmp_path / "same", train=1, val=0, frames=6, unlabelled=slice(2, 15))
    (tmp_path / "other").mkdir()
    two = write_faces(tmp_path / "other" / "same", train=1, val=0, frames=6, unlabelled=slice(0, 2))
    sources = [SourceConfig((str(images),), (str(labels),)) for images, labels in (one, two)]
    apart = gather_frames(sources, tuple(TASKS))
    shared = gather_frames(sources, tuple(TASKS), share_labels=True)
    assert torch.isnan(apart.labels[:6, 2:]).all()
    assert not torch.isnan(shared.labels).any()
    assert torch.equal(shared.labels[:6], shared.labels[6:])


def test_a_source_of_other_tasks_is_refused(tmp_path):
    images, labels = write_faces(tmp_path / "a", train=1, val=0, frames=2)
    source = SourceConfig((str(images),), (str(labels),), tasks=("au",))
    assert not torch.isnan(gather_frames([source], ("au",)).labels[:, 3:]).any()
    with pytest.raises(UserError, match="used for au only, but none of these tasks is trained"):
        gather_frames([source], ("expression",))
