import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from abaw_feats.demo import generate_demo
from abaw_feats.demo.dataset import draw_courses
from abaw_seq.data.annotations import read_annotations
from abaw_seq.errors import UserError

SIZE = {"count": 4, "total_frames": 60}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    generate_demo(out, **SIZE, seed=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_layout_of_the_release(demo):
    assert sorted(path.name for path in demo.iterdir()) == [
        "annotations", "contact_sheet.png", "cropped_aligned", "demo.json",
    ]  # fmt: skip
    images = list((demo / "cropped_aligned").rglob("*.*"))
    assert len(images) == 60 and all(re.fullmatch(r"\d{5}\.jpg", image.name) for image in images)
    assert len({image.parent for image in images}) == 5  # one test video beside the four
    for image in images:
        height, width, _, _ = simplejpeg.decode_jpeg_header(image.read_bytes())
        assert (height, width) == (112, 112)


def test_annotations_are_those_of_the_plan(demo):
    read = read_annotations(demo / "annotations")
    for course in draw_courses(**SIZE, seed=3):
        plan = course.plan
        if plan.split == "test":
            continue
        video = read.videos[plan.name]
        assert video.split == plan.split
        expected = course.labels()
        np.testing.assert_allclose(read.for_frames(plan.name, course.frames), expected, atol=1e-6)
        labelled = ~np.isnan(expected).all(1)
        assert set(course.frames[labelled]) <= set(video.frames)


def test_annotation_files_look_like_the_official_ones(demo):
    for name in ("training_set_annotations.txt", "validation_set_annotations.txt"):
        header, *rows = (demo / "annotations" / name).read_text().splitlines()
        assert header == "image,valence,arousal,expression,aus"
        assert all(len(row.split(",")) == 16 and " " not in row for row in rows)
        assert 2 <= len(rows) - len(set(rows)) <= 4
        for row in rows:
            assert (demo / "cropped_aligned" / row.split(",")[0]).is_file()
    header, *rows = (demo / "annotations" / "MTL_Challenge_test_set_release.txt").read_text().splitlines()
    assert header == "image,valence,arousal,expression,aus" and len(rows) == 8
    assert all((demo / "cropped_aligned" / row).is_file() for row in rows)


def test_the_same_seed_gives_the_same_files_in_any_number_of_processes(demo, tmp_path):
    generate_demo(tmp_path / "again", **SIZE, seed=3, processes=2)
    assert contents(tmp_path / "again") == contents(demo)
    generate_demo(tmp_path / "other", **SIZE, seed=4)
    other = contents(tmp_path / "other")
    assert not set(other.values()) & set(contents(demo).values())


def test_the_summary_counts_what_is_there(demo):
    summary = generate_demo(demo, **SIZE, seed=3)
    assert summary.videos == {"train": 3, "val": 1, "test": 1}
    assert sum(summary.frames.values()) == 60 and summary.frames["test"] == 8
    read = read_annotations(demo / "annotations")
    for split, counts in summary.expressions.items():
        labels = np.concatenate([video.labels[:, 2] for video in read.videos.values() if video.split == split])
        assert sum(counts.values()) == (~np.isnan(labels)).sum()


def test_the_contact_sheet_is_a_picture_to_look_at(demo):
    with Image.open(demo / "contact_sheet.png") as sheet:
        assert sheet.width >= 1200 and sheet.height >= 1000
        assert np.asarray(sheet).std() > 20


def test_progress_counts_every_frame(tmp_path):
    heard = []
    generate_demo(
        tmp_path / "set", count=2, total_frames=24, advance=lambda count, note="": heard.append((count, note))
    )
    assert sum(count for count, _ in heard) == 24 and all(note for _, note in heard)


def test_a_finished_set_is_kept_and_another_replaces_it(tmp_path):
    out = tmp_path / "set"
    generate_demo(out, count=2, total_frames=24)
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    generate_demo(out, count=2, total_frames=24)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    generate_demo(out, count=2, total_frames=30)
    assert len(list(out.rglob("*.jpg"))) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_is_not_a_demo_set_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="mine: exists and is not a finished demo set"):
        generate_demo(tmp_path / "mine", count=2, total_frames=24)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: exists"):
        generate_demo(tmp_path / "file", count=2, total_frames=24)
    (tmp_path / "empty").mkdir()
    generate_demo(tmp_path / "empty", count=2, total_frames=24)
    assert (tmp_path / "empty" / "contact_sheet.png").is_file()


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(count: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_demo(tmp_path / "set", count=2, total_frames=24, advance=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "frames", "culprit"), [(1, 100, "^1 videos.*at least 2"), (4, 20, "^20 frames.*48")])
def test_numbers_that_make_no_set(tmp_path, count, frames, culprit):
    with pytest.raises(UserError, match=culprit):
        generate_demo(tmp_path / "set", count=count, total_frames=frames)
    assert list(tmp_path.iterdir()) == []
