"""Which figures are drawn, and of what: counts against plain loops, choices against known errors."""

from __future__ import annotations

import numpy as np

from abaw_seq.data.prediction_file import VideoPredictions
from abaw_seq.results.report import figures, plot_style, plots
from abaw_seq.results.report.page import ReportedRun


def make_video(seed: int, count: int = 40, labels: bool = True) -> VideoPredictions:
    random = np.random.default_rng(seed)
    outputs = {
        "valence": random.uniform(-1, 1, count),
        "arousal": random.uniform(-1, 1, count),
        "expression": random.dirichlet(np.ones(8), count),
    }
    truth = random.integers(0, 2, (count, 15)).astype(np.float32)
    truth[:, 2] = random.integers(0, 8, count)
    truth[random.random(count) < 0.3, 2] = np.nan
    truth[random.random(count) < 0.3, 3] = np.nan
    return VideoPredictions(np.arange(1, count + 1), outputs, truth if labels else None)


def valence_arousal_video(frames, true, predicted) -> VideoPredictions:
    labels = np.pad(true, ((0, 0), (0, 13)), constant_values=np.nan)
    return VideoPredictions(frames, dict(zip(("valence", "arousal"), predicted.T, strict=True)), labels)


def test_confusion_counts_and_base_rates_equal_a_plain_loop():
    videos = {"a": make_video(1), "b": make_video(2), "c": make_video(3, labels=False)}
    counts = np.zeros((8, 8), int)
    on, known = np.zeros(12), np.zeros(12)
    for video in (videos["a"], videos["b"]):
        for label, probabilities in zip(video.labels, video.outputs["expression"], strict=True):
            if not np.isnan(label[2]):
                counts[int(label[2]), int(np.argmax(probabilities))] += 1
            for unit, value in enumerate(label[3:]):
                if not np.isnan(value):
                    on[unit] += value
                    known[unit] += 1
    np.testing.assert_array_equal(figures._confusion(videos), counts)
    np.testing.assert_allclose(figures._base_rates([ReportedRun("r", predictions=videos)]), on / known)


def test_a_label_that_is_not_a_class_is_not_counted():
    video = make_video(1, 4)
    video.labels[:, 2] = [8, -3, 2.5, 7]
    assert figures._confusion({"a": video}).sum() == 1


def test_timelines_go_from_the_best_to_the_worst_video():
    videos = {}
    for k, error in enumerate((0.3, 0.1, 0.5, 0.2, 0.4)):
        video = make_video(k)
        video.labels[:, :2] = np.stack([video.outputs["valence"], video.outputs["arousal"]], axis=1) - error
        videos[f"video{k}"] = video
    videos["short"] = make_video(9, 5)
    chosen = figures._timeline_videos([ReportedRun("r", predictions=videos)])
    assert chosen == ["video1", "video3", "video4", "video2"]


def test_without_labels_the_longest_videos_are_shown():
    videos = {f"v{n}": make_video(n, n, labels=False) for n in (31, 50, 40, 35, 60, 5)}
    assert figures._timeline_videos([ReportedRun("r", predictions=videos)]) == ["v60", "v50", "v40", "v35"]


def test_file_names_of_runs_are_distinct_and_not_paths():
    runs = [ReportedRun("../a"), ReportedRun("a"), ReportedRun(".."), ReportedRun("x/lstm b")]
    assert figures._slugs(runs) == ["a_1", "a_2", "run", "x_lstm_b"]


def test_annotated_lines_have_gaps_where_labels_are_missing():
    true = np.array([[0.1, 0.2], [np.nan, np.nan], [0.3, 0.4], [np.nan, np.nan]])
    figure = plots.timelines({"$x_{$": valence_arousal_video(np.arange(4), true, np.zeros((4, 2)))}, plot_style.LIGHT)
    drawn = [line.get_ydata() for line in figure.axes[0].lines if line.get_color() == plot_style.LIGHT.text]
    np.testing.assert_array_equal(drawn[0], true[:, 0])
    # A lone labelled frame has no line to either side; it is marked.
    np.testing.assert_allclose(drawn[1], [0.1, 0.3])
    assert plot_style.png(figure)[:4] == b"\x89PNG"


def test_lines_stop_at_gaps_between_frames_and_each_panel_shows_its_error():
    frames = np.array([1, 2, 30, 100, 101])
    video = valence_arousal_video(frames, np.zeros((5, 2)), np.tile([0.25, -0.5], (5, 1)))
    figure = plots.timelines({"v": video}, plot_style.LIGHT)
    line = next(line for line in figure.axes[0].lines if line.get_color() == plot_style.LIGHT.accent)
    np.testing.assert_array_equal(line.get_ydata(), [0.25, 0.25, 0.25, np.nan, 0.25, 0.25])
    assert 30 < line.get_xdata()[3] < 100
    titles = [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes]
    assert titles == ["valence · v · off by 0.25", "arousal · v · off by 0.50"]


def test_confusion_cells_show_shares_and_counts():
    counts = np.zeros((8, 8), int)
    counts[0, 0], counts[0, 4] = 1500, 500
    texts = [text.get_text() for text in plots.confusion_matrix(counts, plot_style.DARK).axes[0].texts]
    assert len(texts) == 8
    assert texts[0] == "0.75\n1,500" and texts[4] == "0.25\n500"


def test_a_single_epoch_is_a_dot_and_unknown_scores_are_left_out():
    history = [{"epoch": 1, "train": {"loss": 2.5}, "val": {"p_mtl": None}}]
    figure = plots.training_curves({"r": history}, {"r": None}, plot_style.LIGHT)
    loss, total = figure.axes[0].lines[0], figure.axes[1].lines[0]
    assert list(loss.get_ydata()) == [2.5] and loss.get_marker() == "o"
    assert len(total.get_ydata()) == 0
