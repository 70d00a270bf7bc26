"""Tables show the numbers of the edition that was scored, and n/a in words."""

import numpy as np
import pytest

from abaw_seq.metrics import score
from abaw_seq.results.tables import all_scores, comparison, number
from abaw_seq.terminal import print_table


def scores(edition):
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.uniform(-1, 1, (50, 2)), rng.integers(0, 7, (50, 1)), np.ones((50, 12))], 1)
    outputs = {
        "valence": rng.uniform(-1, 1, 50),
        "arousal": rng.uniform(-1, 1, 50),
        "expression": rng.random((50, 8)),
        "au": rng.random((50, 12)),
    }
    return score(outputs, labels, edition=edition)


ROWS = {
    "mtl": (5, ["P_MTL", "F1 Other", "F1 AU26"]),
    "va": (3, ["mean CCC", "CCC arousal"]),
    "expr": (1, ["F1 expression", "F1 Other"]),
    "au": (1, ["F1 action units", "F1 AU1 "]),
    "expr2020": (3, ["0.67 F1 + 0.33 accuracy", "F1 Surprise"]),
    "au2020": (3, ["0.5 F1 + 0.5 accuracy", "F1 AU26"]),
}
CLASSES = {"mtl": 20, "va": 0, "expr": 8, "au": 12, "expr2020": 7, "au2020": 12}


@pytest.mark.parametrize("edition", ROWS)
def test_each_edition_shows_its_total_its_parts_and_its_classes(edition, capsys):
    result = scores(edition)
    print_table("t", *all_scores({"run": result}))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("│")]
    parts, words = ROWS[edition]
    assert len(lines) == parts + CLASSES[edition]
    assert all(word in out for word in words)
    assert f"{result['score']:.3f}" in lines[0]


def test_an_interval_stands_behind_its_score_and_nothing_is_n_a(capsys):
    result = scores("mtl") | {"valence": None, "intervals": {"p_mtl": (0.25, 1.5), "valence": None}}
    print_table("t", *all_scores({"run": result}))
    out = capsys.readouterr().out
    assert f"{result['p_mtl']:.3f} [0.250, 1.500]" in out and "n/a" in out and "nan" not in out.lower()
    print_table("t", *comparison({"run": result}))
    lines = capsys.readouterr().out.splitlines()
    row = next(k for k, line in enumerate(lines) if "│ run " in line)
    assert f"{result['p_mtl']:.3f}" in lines[row] and "[0.250, 1.500]" in lines[row + 1]
    assert number(None) == "n/a"
