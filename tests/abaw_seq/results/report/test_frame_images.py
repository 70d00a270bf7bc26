"""The names of images that the report's page builds."""

import json
import unicodedata

import pytest

from abaw_seq.data.frame_names import frame_files
from abaw_seq.results.report.frame_images import image_names


def url(pattern, frame):
    """As page_panel.js builds it, from what the page's JSON holds."""
    images = json.loads(json.dumps(pattern))
    name = f"{images['prefix']}{str(frame).rjust(images['width'], '0')}{images['suffix']}"
    return f"{images['folder']}/{images['others'].get(str(frame), name)}"


NAMES = {
    "as extraction writes them": ["00001.jpg", "00012.jpg", "00120.jpg"],
    "without zeros": ["1.png", "12.png", "120.png"],
    "with a prefix": ["frame_0001.jpg", "frame_0012.jpg"],
    "more digits": ["000001.jpg", "000120.jpg"],
    "with faces": ["00001_face3.jpg", "00002_face2.jpg", "00003_face1.jpg"],
    "mixed": ["00001.jpg", "2.png", "img_3.webp", "00004.jpg", "00005.jpg"],
    "with the same number twice": ["1_00001.jpg", "1_00002.jpg", "1_00003.jpg"],
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("folder", ["v", "cropped_aligned_new_50_vids/v"])
def test_every_frame_has_the_name_of_its_file(tmp_path, kind, folder):
    (tmp_path / folder).mkdir(parents=True)
    for name in NAMES[kind]:
        (tmp_path / folder / name).write_bytes(b"")
    (pattern,) = image_names(tmp_path, ["v"]).values()
    numbers, names = frame_files(tmp_path / folder)
    assert [url(pattern, number) for number in numbers.tolist()] == [f"{folder}/{name}" for name in names]
    assert bool(pattern["others"]) == (kind in ("mixed", "with faces"))


def test_videos_without_images_are_said(tmp_path, caplog):
    for name in ("a/1.jpg", "b/1.jpg", "b/01.jpg", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(image_names(tmp_path, ["d", "a", "b", "c"])) == ["a"]
    assert "no images" in caplog.text and "of 3 of 4 videos, which are shown without: b, c, d" in caplog.text


def test_names_in_another_unicode_form_have_their_images(tmp_path):
    composed, apart = (unicodedata.normalize(form, "vidéo1") for form in ("NFC", "NFD"))
    (tmp_path / apart).mkdir()
    (tmp_path / apart / "1.jpg").write_bytes(b"")
    assert image_names(tmp_path, [composed])[composed]["folder"] == apart
