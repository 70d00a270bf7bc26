"""`import abaw_feats`: encoders and extraction from Python."""

import subprocess
import sys

import numpy as np
import pytest

import abaw_feats
import abaw_seq
from abaw_feats.reading.decoding import decode_image
from tests.abaw_feats.tiny_videos import write_frames, write_networks


def test_importing_is_cheap_and_extract_is_the_function():
    code = (
        "import sys, abaw_feats\n"
        "from abaw_feats import extract\n"
        "print(callable(extract), 'timm' in dir(abaw_feats), sorted(abaw_feats.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True False ['FrameEncoder', 'extract', 'load_encoder']\n"
    light = "import sys, abaw_feats\nprint([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True).stdout == "[]\n"


def test_an_encoder_gives_the_features_that_extraction_stores(tmp_path):
    network, _ = write_networks(tmp_path)
    folder = write_frames(tmp_path / "videos" / "one", range(1, 12))
    settings = {"device": "cpu", "precision": "fp32"}
    abaw_feats.extract(
        backbones=[str(network)], videos=[tmp_path / "videos"], out=tmp_path / "feats.h5",
        weights={"tiny": "random"}, dtype="float32", **settings,
    )  # fmt: skip
    with abaw_seq.open_features(tmp_path / "feats.h5") as reader:
        stored, numbers = reader.features("one", "tiny"), reader.frames("one")

    pixels = np.stack([decode_image(path.read_bytes()) for path in sorted(folder.iterdir())])
    encoder = abaw_feats.load_encoder(network, weights="random", **settings)
    assert (encoder.name, encoder.dim, encoder.precision) == ("tiny", stored.shape[1], "fp32")
    np.testing.assert_array_equal(encoder(pixels), stored)
    assert len(numbers) == 11 and encoder(pixels[:0]).shape == (0, encoder.dim)
    with pytest.raises(ValueError, match="expected uint8"):
        encoder(pixels.astype(np.float32))
