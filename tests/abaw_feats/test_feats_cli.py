from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from abaw_feats.cli import extract, main
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.errors import UserError
from tests.abaw_feats.tiny_videos import write_frames, write_networks
from tests.parity import fixture_files


def run(command, *arguments):
    """(exit code, standard output, standard error) of a command line."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, with three videos, one of them with a broken frame, and two networks."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two", "three")):
        write_frames(tmp_path / "videos" / name, range(1, 4), seed=seed)
    (tmp_path / "videos" / "three" / "00002.png").write_bytes(b"")
    write_networks(tmp_path)
    return tmp_path


def extracting(*arguments):
    return run(extract, "--backbone", "tiny.yaml", "--weights", "tiny=random", "--precision", "fp32", *arguments)


@pytest.mark.parametrize(
    "videos",
    [("--videos", "videos/one", "videos/two"), ("--videos", "videos/one", "--videos", "videos/two"),
     ("--videos=videos/one", "videos/two", "--device", "cpu")],
)  # fmt: skip
def test_videos_may_be_listed_or_repeated(here, videos):
    code, _, said = extracting(*videos)
    assert code == 0 and "feats.h5: 2 videos, 6 frames, features of tiny (16)" in said
    with FeatureReader("feats.h5") as reader:
        assert reader.videos == ("one", "two")


def test_several_backbones_and_weights_may_be_listed(here):
    arguments = ["--backbone", "tiny.yaml", "grey.yaml", "--weights", "grey=random", "tiny=random"]
    code, _, said = run(extract, *arguments, "--videos", "videos/one", "-o", "x.h5", "--precision", "fp32")
    assert code == 0, said
    with FeatureReader("x.h5") as reader:
        assert set(reader.backbones) == {"tiny", "grey"}


def test_a_broken_frame_is_named_and_fails_only_with_strict(here):
    code, _, said = extracting("--videos", "videos")
    assert code == 0 and "three: 1 unreadable (valid = false): frames 2" in said
    code, _, said = extracting("--videos", "videos", "--strict")
    assert code == 1 and said.splitlines()[-1] == "error: strict: 1 frames of 1 videos could not be read"


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--videos", "absent"], "absent: no such file or folder"),
        (["--videos", "nothing"], "nothing: no frames there"),
        (["--videos", "videos", "-o", "wrong.txt/feats.h5"], "wrong.txt/feats.h5: its folder wrong.txt"),
        (["--videos", "videos", "-o", "videos"], "videos: is a folder"),
        (["--videos", "videos", "--annotations", "absent.txt"], "absent.txt"),
        (["--videos", "videos", "--annotations", "wrong.txt"], "wrong.txt"),
        (["--videos", "videos", "--backbone", "iresnet1"], "'iresnet1'"),
        (["--videos", "videos", "--backbone", "grey.yaml"], "grey"),
        (["--videos", "videos", "--weights", "other=random"], "weights of other"),
        (["--videos", "videos", "--weights", "tiny"], "--weights tiny: expected NAME=FILE"),
        (["--videos", "videos", "--weights", "tiny=none.pt"], "none.pt"),
        (["--videos", "videos", "--shard", "3/2"], "shard '3/2'"),
        (["--videos", "videos", "--device", "cuda:77"], "cuda:77"),
        (["--videos", "videos", "-o", "wrong.h5"], "wrong.h5: not a readable HDF5 file"),
        (["--videos", "videos", "-o", "other.h5"], "other.h5: not a feature file"),
    ],
)
def test_a_mistake_is_one_line_that_names_it_and_leaves_nothing(here, arguments, named):
    (here / "nothing").mkdir()
    (here / "wrong.txt").write_text("image,valence,arousal,expression,aus\nvideo/00001.jpg,zero\n")
    (here / "wrong.h5").write_text("no HDF5")
    h5py.File(here / "other.h5", "w").close()
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    code, out, said = extracting(*arguments)
    assert code == 2 and out == "" and len(said.splitlines()) == 1, said
    assert said.startswith("error: ") and named in said
    assert {path for path in here.rglob("*")} == set(before)


def test_merge_and_info_show_what_a_file_holds(here):
    header = "image,valence,arousal,expression,aus\n"
    (here / "training_set_annotations.txt").write_text(header + "one/00002.jpg,0.5,0.5,1" + ",0" * 12 + "\n")
    settings = ["--videos", "videos", "--annotations", "training_set_annotations.txt"]
    for k in (1, 2):
        assert extracting(*settings, "--shard", f"{k}/2")[0] == 0
    code, _, said = run(main, "merge", "feats.1-of-2.h5", "feats.2-of-2.h5", "-o", "all.h5")
    assert code == 0 and "all.h5: 3 videos, 9 frames from 2 files" in said
    code, shown, _ = run(main, "info", "all.h5")
    assert code == 0 and "random:0" in shown and "tiny" in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert ["train", "1", "3", "0", "1", "1", "1", "1"] in rows and ["none", "2", "6", "1", "0", "0", "0", "0"] in rows
    code, _, said = run(main, "info", "absent.h5")
    assert code == 2 and said == "error: absent.h5: no such feature file\n"


def test_backbones_lists_sizes_and_weights():
    code, shown, _ = run(main, "backbones")
    assert code == 0
    for name, dim in (("mae", "768"), ("iresnet100", "512"), ("densenet100bc", "342")):
        (row,) = [line for line in shown.splitlines() if line.startswith(f"│ {name} ")]
        assert dim in row


def test_the_authors_iresnet50_through_the_command_line(tmp_path, monkeypatch):
    spec, expected = fixture_files.load("iresnet50")
    weights = fixture_files.write_checkpoint("iresnet50", tmp_path / "iresnet50.pth")
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, image in enumerate(fixture_files.images("iresnet50").numpy(), start=1):
        Image.fromarray(image).save(folder / f"{number:05d}.png")
    out = tmp_path / "feats.h5"
    exact = ["--precision", "fp32", "--dtype", "float32", "--device", "cpu", "-o", out]
    code, _, said = run(
        extract, "--backbone", "iresnet50", "--weights", f"iresnet50={weights}", "--videos", folder, *exact
    )
    assert code == 0, said
    with FeatureReader(out) as reader:
        found = reader.features("frames", "iresnet50")
        assert reader.backbones["iresnet50"].weights == "iresnet50.pth"
    np.testing.assert_allclose(found, expected["embedding"], **spec["tolerance"]["embedding"])


def test_pretrain_and_finetune_get_what_was_typed(here, monkeypatch):
    from abaw_feats.learning import finetune, pretrain

    calls = []
    monkeypatch.setattr(pretrain, "pretrain", lambda *args, **named: calls.append((args, named)))
    monkeypatch.setattr(finetune, "finetune", lambda *args, **named: calls.append((args, named)))
    (here / "mae.yaml").write_text("epochs: 5\nbatch_size: 9\n")
    settings = ["--config", "mae.yaml", "--out", "run", "--set", "epochs=7", "seed=3", "--device", "cpu"]
    code, _, said = run(main, "pretrain", *settings, "--videos", "a", "b", "--resume")
    assert code == 0, said
    labelled = ["--videos", "a", "--annotations", "x", "--annotations", "y"]
    code, _, said = run(main, "finetune", *settings, *labelled, "--tasks", "valence", "au")
    assert code == 0, said
    code, _, said = run(main, "finetune", *settings, *labelled, "--tasks", "smile")
    assert code == 2 and "smile" in said and "expression" in said
    ((config, videos, out), named), ((config2, out2), named2) = calls
    assert (config.epochs, config.batch_size, config.seed) == (config2.epochs, config2.batch_size, 3) == (7, 9, 3)
    assert config2.tasks == ("valence", "au")
    assert videos == (Path("a"), Path("b")) and out == out2 == Path("run")
    assert named == {"device": "cpu", "resume": True}
    sources = {"videos": (Path("a"),), "annotations": (Path("x"), Path("y"))}
    assert named2 == {"device": "cpu", "resume": False, **sources}
    code, _, said = run(main, "pretrain", *settings, "--videos", "a", "--set", "epoch=1")
    assert code == 2 and "epochs" in said and len(calls) == 2


@pytest.mark.parametrize("arguments", [["abaw_feats.cli:extract"], ["abaw_feats.cli:main", "pretrain"]])
def test_help_answers_in_under_a_second(arguments):
    module, name = arguments[0].split(":")
    code = f"import sys; sys.argv[1:] = {[*arguments[1:], '--help']}; from {module} import {name}; {name}()"
    seconds = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.monotonic() - begun)
        assert done.returncode == 0 and "--videos" in done.stdout
    assert min(seconds) < 1


def test_without_the_vision_packages_one_line_says_how_to_install_them(here, monkeypatch):
    import abaw_feats
    from abaw_feats import vision_packages

    monkeypatch.setattr(vision_packages, "NEEDED", ("numpy", "no_such_package"))
    code, _, said = extracting("--videos", "videos")
    line = "no_such_package not installed; type: pip install 'abaw[feats]'"
    assert (code, said) == (2, f"error: {line}\n")
    with pytest.raises(UserError) as raised:
        _ = abaw_feats.load_encoder
    assert str(raised.value) == line
