"""The report: what is on the page equals what is in the files, and nothing in them can act on it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from abaw_seq.data.prediction_file import VideoPredictions, concatenated, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.results.reading import distinct_names
from abaw_seq.results.report import page, page_data, plot_style
from abaw_seq.results.report import write as report
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

# HDF5 splits names at "/", so that no end tag can come from a prediction file.
HOSTILE = '<script><img src=x onerror=alert(1)> {{data}} & "$\\frac{'
ELEMENT = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


class Reader(HTMLParser):
    """Collects tags, the text of table cells by table and key, and checks that tags close in order."""

    VOID = {"meta", "link", "img", "input", "source", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.cells: dict[tuple[str, str, str], list[str]] = {}
        self.text: list[str] = []
        self._open: list[str] = []
        self._cell: tuple | None = None
        self._table = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = attributes.get("id", "")
        if tag == "td" and "data-key" in attributes:
            self._cell = (self._table, attributes["data-key"], attributes["class"].split()[0])

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._cell = None if tag == "td" else self._cell

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.text.append(data)
        if self._cell:
            self.cells.setdefault(self._cell, []).append(data)

    def attributes(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_video(seed: int, count: int = 40, *, tasks=("valence", "arousal", "expression", "au"), labels=True):
    random = np.random.default_rng(seed)
    outputs = {
        "valence": random.uniform(-1, 1, count),
        "arousal": random.uniform(-1, 1, count),
        "expression": random.dirichlet(np.ones(8), count),
        "au": random.uniform(0, 1, (count, 12)),
    }
    truth = np.concatenate(
        [
            random.uniform(-1, 1, (count, 2)),
            random.integers(0, 8, (count, 1)),
            random.integers(0, 2, (count, 12)),
        ],
        axis=1,
    ).astype(np.float32)
    truth[random.random(count) < 0.3, :2] = np.nan
    truth[random.random(count) < 0.3, 2] = np.nan
    frames = np.cumsum(random.integers(1, 9, count)).astype(np.int32)
    return VideoPredictions(
        frames, {task: outputs[task].astype(np.float32) for task in tasks}, truth if labels else None, "val"
    )


def make_run(folder: Path, videos: dict[str, VideoPredictions], *, epochs: int = 3, tuned: bool = True) -> Path:
    """A run folder as training leaves it; returns the folder."""
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.h5", videos)
    untuned = score(*concatenated(videos))
    better = untuned | {"p_mtl": untuned["p_mtl"] + 0.1234, "au_f1": dict.fromkeys(ACTION_UNITS, 0.4321)}
    scores = {"edition": "mtl", "split": "val", "untuned": untuned, "tuned": better if tuned else None}
    (folder / "scores.json").write_text(json.dumps(scores | {"best_epoch": 1}))
    lines = [
        json.dumps({"epoch": k, "train": {"loss": 1 / k}, "val": untuned | {"p_mtl": k / 10}})
        for k in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "config.yaml").write_text("encoder: lstm # </pre><script>alert(1)</script>\n")
    (folder / "provenance.json").write_text('{"seed": 1}')
    return folder


def inlined_data(text: str) -> dict:
    return json.loads(ELEMENT.search(text)[1])


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A report of two runs, one tuned and of one epoch alone, one untuned with a hostile name."""
    root = tmp_path_factory.mktemp("reported")
    videos = {"426": make_video(1), HOSTILE: make_video(2, 35), "one": make_video(3, 1)}
    first = make_run(root / "lstm", videos, epochs=1)
    others = {"426": make_video(1), HOSTILE: make_video(5, 35)}
    second = make_run(root / f"b {HOSTILE.replace('/', '')[:20]}", others, tuned=False)
    frames = root / "data #1" / "cropped_aligned"
    frames.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot_style, "DPI", 40)  # drawing is what takes the time
        report.write_report([first, second], root / "out", frames_root=root / "data #1")
    return root


def test_the_page_and_its_figures_are_written(reported):
    written = sorted(path.name for path in (reported / "out" / "report").iterdir())
    expected = ["action_units.png", "curves.png"]
    for kind in ("confusion", "timeline", "valence_arousal"):
        expected += [f"{kind}_b_script_img_src_x_o.png", f"{kind}_lstm.png"]
    assert written == sorted(expected)
    for path in (reported / "out" / "report").iterdir():
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in (reported / "out").iterdir()) == ["report", "report.html"]


def test_the_page_needs_no_other_file_and_only_its_own_script_may_run(reported):
    text = (reported / "out" / "report.html").read_text()
    read = Reader(text)
    assert all(image.get("src", "data:").startswith("data:image/png;base64,") for image in read.attributes("img")[1:])
    assert [link["href"] for link in read.attributes("link")] == ["data:,"]
    assert all("src" not in script for script in read.attributes("script"))
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    policy = next(meta["content"] for meta in read.attributes("meta") if "http-equiv" in meta)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_names_and_documents_from_files_are_escaped(reported):
    text = (reported / "out" / "report.html").read_text()
    read = Reader(text)
    assert not any("onerror" in attributes for _, attributes in read.tags)
    assert [script.get("type") for script in read.attributes("script")] == ["application/json", None]
    assert "encoder: lstm # </pre><script>alert(1)</script>\n" in read.text
    assert "<" not in ELEMENT.search(text)[1]
    data = inlined_data(text)
    assert [video["name"] for video in data["runs"][0]["videos"]] == ["426", HOSTILE, "one"]


def test_control_characters_in_names_are_written_out():
    run = page.ReportedRun("safe\u202egnp[b]\x1b[2J", documents={"config\x07": "a: \x9b1\nb: :smile:\n"})
    text = page.render_page([run], [], image_base=None)
    assert "safe\\u202egnp[b]\\x1b[2J" in text and "config\\x07" in text and "a: \\x9b1\nb: :smile:\n" in text
    assert "\u202e" not in text and "\x1b" not in text


def test_an_end_tag_in_a_name_stays_inside_the_data():
    video = make_video(1, 2)
    run = page.ReportedRun("</script><img onerror>", predictions={"</script><img onerror=alert(1)>": video})
    text = page.render_page([run], [], image_base=None)
    assert inlined_data(text)["runs"][0]["videos"][0]["name"] == "</script><img onerror=alert(1)>"
    assert not any("onerror" in attributes for _, attributes in Reader(text).tags)


def test_the_tables_show_the_numbers_of_scores_json(reported):
    read = Reader((reported / "out" / "report.html").read_text())
    runs = [
        json.loads((path / "scores.json").read_text()) for path in sorted(reported.iterdir()) if path.name[0] in "bl"
    ]
    second, first = runs
    for key in ("p_mtl", "valence", "arousal", "expression", "au"):
        assert read.cells["table-scores", key, "untuned"] == [f"{s['untuned'][key]:.3f}" for s in (first, second)]
        assert read.cells["table-scores", key, "tuned"] == [f"{first['tuned'][key]:.3f}", "n/a"]
    for part, names in (("expression_f1", EXPRESSIONS), ("au_f1", ACTION_UNITS)):
        for name in names:
            shown = read.cells[f"table-{part}", name, "untuned"]
            assert shown == [f"{s['untuned'][part][name]:.3f}" for s in (first, second)]
    assert read.cells["table-au_f1", "AU12", "tuned"] == ["0.432", "n/a"]


def test_the_scrubber_gets_the_predictions_rounded_and_the_labels_with_gaps(reported):
    data = inlined_data((reported / "out" / "report.html").read_text())
    video, packed = make_video(2, 35), data["runs"][0]["videos"][1]
    truth = data["truths"][packed["truth"]]
    np.testing.assert_array_equal(unpacked(truth["frames"], "<i4"), video.frames)
    np.testing.assert_allclose(unpacked(packed["valence"], "<i2") / 1000, video.outputs["valence"], atol=0.00051)
    np.testing.assert_array_equal(unpacked(packed["decision"], "u1"), video.outputs["expression"].argmax(1))
    units = unpacked(packed["au"], "u1").reshape(35, 12)
    np.testing.assert_allclose(units / 253, video.outputs["au"], atol=0.5 / 253 + 1e-6)
    np.testing.assert_array_equal(units / 253 >= 0.5, video.outputs["au"] >= 0.5)
    arousal = unpacked(truth["arousal"], "<i2")
    np.testing.assert_array_equal(arousal == -32768, np.isnan(video.labels[:, 1]))
    expression = unpacked(truth["expression"], "u1")
    np.testing.assert_array_equal(expression, np.nan_to_num(video.labels[:, 2], nan=255))
    # Both runs hold video 426 with the same frames and labels: stored once.
    assert data["runs"][0]["videos"][0]["truth"] == data["runs"][1]["videos"][0]["truth"]


def test_the_side_of_one_half_survives_rounding():
    near = np.array([0.0, 0.4999999, 0.5, 0.5000001, 1.0])
    steps = unpacked(page_data.scrubber_data({"r": {"v": VideoPredictions(
        np.arange(5), {"au": np.repeat(near[:, None], 12, axis=1)}
    )}}, None)["runs"][0]["videos"][0]["au"], "u1").reshape(5, 12)[:, 0]  # fmt: skip
    np.testing.assert_array_equal(steps / 253 >= 0.5, near >= 0.5)


def test_images_are_linked_relative_to_the_page(reported):
    data = inlined_data((reported / "out" / "report.html").read_text())
    assert data["images"] == "../data%20%231/cropped_aligned/"
    target = Path(os.path.normpath(reported / "out" / unquote(data["images"])))
    assert target == reported / "data #1" / "cropped_aligned"


def test_missing_labels_and_tasks_leave_nulls_and_an_honest_page(tmp_path):
    videos = {
        "a": make_video(1, 33, tasks=("valence", "arousal"), labels=False),
        "b": make_video(2, 2, tasks=("expression",), labels=False),
    }
    write_predictions(tmp_path / "predictions.h5", videos)
    written = report.write_report([tmp_path])
    assert written == tmp_path / "report.html"
    text = written.read_text()
    assert "No labels, so no scores." in text and "What the model predicts" in text
    data = inlined_data(text)
    first, second = data["runs"][0]["videos"]
    assert first["expression"] is None and first["au"] is None and second["valence"] is None
    assert data["truths"][first["truth"]]["valence"] is None
    assert data["labelled"] is False and data["images"] is None
    figures = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert [file.split("_")[0] for file in figures] == ["timeline", "valence"]


def test_a_run_that_is_still_training_and_has_no_predictions(tmp_path):
    scores = {
        "edition": "va",
        "split": "val",
        "untuned": {"score": 0.25, "p_mtl": None, "valence": 0.5},
        "tuned": None,
    }
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "train": {"loss": 1.5}, "val": {}}\n{"epoch": 2, "tr')
    run = report._read_run(tmp_path, "r")
    assert [line["epoch"] for line in run.epochs] == [1]
    cells = Reader(page.render_page([run], [], image_base=None)).cells
    assert cells["table-scores", "score", "untuned"] == ["0.250"]
    assert cells["table-scores", "valence", "untuned"] == ["0.500"]
    assert cells["table-scores", "arousal", "untuned"] == ["n/a"]
    assert ("table-scores", "p_mtl", "untuned") not in cells


def test_a_prediction_file_with_labels_is_scored(tmp_path):
    videos = {"a": make_video(1), "b": make_video(2)}
    write_predictions(tmp_path / "ensemble.h5", videos)
    run = report._read_run(tmp_path / "ensemble.h5", "ensemble")
    assert run.scores["untuned"] == score(*concatenated(videos))
    assert run.scores["split"] == "val"


def test_runs_of_one_name_are_named_by_their_folders_too(tmp_path):
    paths = [tmp_path / "x" / "lstm", tmp_path / "y" / "lstm", tmp_path / "y" / "gru" / "predictions.h5"]
    assert distinct_names(paths) == ["x/lstm", "y/lstm", "y/gru"]
    with pytest.raises(UserError, match="twice"):
        distinct_names([paths[0], tmp_path / "y" / ".." / "x" / "lstm"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("scores.json", "{", "scores.json: not JSON"),
        ("scores.json", '{"untuned": 3}', "scores.json: untuned is not a table"),
        ("scores.json", '{"untuned": {"au_f1": [1]}}', "scores.json: untuned is not a table"),
        ("metrics.jsonl", '{"epoch": 1}\nnonsense\n', "metrics.jsonl, line 2: not JSON"),
        ("metrics.jsonl", '{"epoch": 1, "val": 3}\n', "metrics.jsonl, epoch 1"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, text, message):
    (tmp_path / "scores.json").write_text("{}")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        report.write_report([tmp_path])
    assert not (tmp_path / "report.html").exists()


def test_a_missing_run_or_folder_of_frames_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run"):
        report.write_report([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="neither scores.json nor predictions.h5"):
        report.write_report([tmp_path])
    with pytest.raises(UserError, match="faces: no such folder of frames"):
        report.write_report([tmp_path], frames_root=tmp_path / "faces")


def test_without_matplotlib_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "scores.json").write_text("{}")
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("figures", "plots", "plot_style"):
        monkeypatch.delitem(sys.modules, f"abaw_seq.results.report.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "abaw\[report\]"'):
        report.write_report([tmp_path])


def test_the_script_finds_every_element_it_asks_for():
    script, template = page._script(), page._asset("page.html")
    ids = set(re.findall(r'\bid="([\w-]+)"', template))
    asked = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', script))
    for listed in re.findall(r"Object\.fromEntries\(\s*\[([^\]]*)\]\.map", script):
        asked |= set(re.findall(r'"([\w-]+)"', listed))
    assert len(asked) > 20 and asked <= ids
