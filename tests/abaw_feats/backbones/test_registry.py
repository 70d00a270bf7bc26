"""Names, YAML files and folders become specs; what is wrong is named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from abaw_feats.backbones import BUILT_IN, build, find_spec, spec_from_dict
from abaw_seq.config import dump, to_dict
from abaw_seq.errors import UserError

SHIPPED = sorted((Path(__file__).parents[3] / "configs" / "backbones").glob("*.yaml"))


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_names_of_the_paper():
    names = {"mae", "mae_gap", "iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200", "densenet100bc"}
    assert names <= BUILT_IN.keys()
    mae, face, dense = (find_spec(name) for name in ("mae", "iresnet", "densenet"))
    assert (mae.pooling, find_spec("mae_gap").pooling) == ("cls", "gap")
    assert (mae.preprocessing.size, mae.preprocessing.resize, mae.preprocessing.scale) == (224, "bicubic", 255.0)
    assert (face.name, face.preprocessing.size, face.preprocessing.mean) == ("iresnet", 112, (127.5, 127.5, 127.5))
    assert (dense.preprocessing.colour, dense.preprocessing.mean) == ("grey", (63.987095,))


@pytest.mark.parametrize("name", [*BUILT_IN, "iresnet", "timm:tf_efficientnet_b0.ns_jft_in1k"])
def test_specs_survive_json_and_yaml(name):
    spec = find_spec(name)
    for plain in (json.loads(json.dumps(to_dict(spec))), yaml.safe_load(dump(spec))):
        assert spec_from_dict(plain) == spec


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_describe_networks(path):
    spec = find_spec(path)
    assert spec.name == path.stem and spec.licence and spec.source
    with torch.device("meta"):
        assert build(spec).dim > 0


def test_shipped_files_of_public_checkpoints():
    by_name = {path.stem: find_spec(path) for path in SHIPPED}
    assert (
        by_name["hsemotion_b2"].preprocessing
        == spec_from_dict(
            {
                "preprocessing": {
                    "size": 260,
                    "resize": "bilinear",
                    "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225],
                }
            },
            start=find_spec("mae"),
        ).preprocessing
    )
    assert by_name["hsemotion_b0"].hub is None and by_name["hsemotion_b0"].preprocessing.size == 224
    assert by_name["densenet_iemocap"].preprocessing.mean == (131.0754,)
    assert by_name["densenet_movies"].preprocessing.std == (45.954746,)


def test_a_file_may_vary_another_entry(tmp_path):
    path = written(
        tmp_path,
        "{like: mae, pooling: auto, options: {depth: 4}, weights: au.pth, "
        "preprocessing: {size: 112, std: [1e-1, 1, 2]}}",
        "mae_au.yaml",
    )
    spec = find_spec(str(path))
    assert (spec.name, spec.pooling, spec.arch) == ("mae_au", "auto", "vit")
    assert spec.options == {"patch": 16, "width": 768, "depth": 4, "heads": 12}
    assert spec.preprocessing.std == (0.1, 1.0, 2.0) and spec.preprocessing.mean == (0.485, 0.456, 0.406)
    assert spec.weights == str(tmp_path / "au.pth")
    assert find_spec("mae").options["depth"] == 12


def test_folders_and_absolute_weights(tmp_path):
    written(tmp_path, "{like: densenet, name: d, weights: /elsewhere/w.pt}", "backbone.yaml")
    assert find_spec(tmp_path).weights == "/elsewhere/w.pt"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("like: mae\nnane: x\n", "unknown key nane; did you mean name"),
        ("like: mae\npreprocessing: {mena: [1]}\n", "unknown key preprocessing.mena; did you mean preprocessing.mean"),
        ("like: meaa\n", "unknown backbone 'meaa'"),
        ("like: mae\nname: a/b\n", "name 'a/b'"),
        ("like: mae\npreprocessing: {colour: bgr}\n", "preprocessing.colour must be one of rgb, grey, not 'bgr'"),
        ("like: mae\npreprocessing: {resize: area}\n", "resize must be one of bicubic, bilinear, not 'area'"),
        ("like: mae\npreprocessing: {size: 112.5}\n", "preprocessing.size must be a whole number, not 112.5"),
        ("like: mae\npreprocessing: {mean: [0.5]}\n", "preprocessing.mean needs 3"),
        (
            "like: mae\npreprocessing: {std: [1, 0, 1]}\n",
            r"std\[1\] must be a number in \(0, inf\), not 0\.0",
        ),
        ("like: mae\npreprocessing: {mean: [a, b, c]}\n", r"preprocessing.mean\[0\] must be a number, not 'a'"),
        ("like: densenet\npreprocessing: {resize: bicubic}\n", "preprocessing.resize must be bilinear for grey"),
        ("like: mae\noptions: null\n", "options must be a mapping, not None"),
        ("arch: vit\n", "options, pooling, preprocessing missing.*`like: NAME`"),
        (
            f"preprocessing: {json.dumps(to_dict(BUILT_IN['mae'])['preprocessing'])}",
            "arch, options, pooling missing",
        ),
        ("- mae\n", "expected `key: value` lines, not a list"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, named):
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=named) as error:
        find_spec(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("iresnet5", "did you mean 'iresnet50'"),
        ("nothing.yaml", "nothing.yaml: no such config file"),
        ("timm:tf_efficientnet_b99", "unknown timm model"),
        ("timm:vit_base_patch16_224.nonsense", "nonsense"),
        ("timm:hf-hub:someone/something", "unknown timm model"),
    ],
)
def test_unknown_names(name, named):
    with pytest.raises(UserError, match=named):
        find_spec(name)


def test_a_folder_without_a_spec(tmp_path):
    with pytest.raises(UserError, match="backbone.yaml"):
        find_spec(tmp_path)
