"""Every setting has a range; what lies outside is refused by file, key, value and range before anything is built."""

import dataclasses
import inspect
import typing

import pytest

from abaw_feats.backbones.spec import Preprocessing
from abaw_feats.learning.finetune_config import FinetuneConfig
from abaw_feats.learning.labelled_frames import SourceConfig
from abaw_feats.learning.masked_autoencoder import DecoderConfig
from abaw_feats.learning.pretrain import PretrainConfig
from abaw_seq import config as configs
from abaw_seq.config.page import page
from abaw_seq.config.ranges import Range, hints_of
from abaw_seq.errors import UserError
from abaw_seq.experiments.recipe import Recipe
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.results.postprocess import Postprocess
from abaw_seq.results.weights import Ensemble

KINDS = [TrainConfig, Recipe, SearchConfig, PretrainConfig, FinetuneConfig, Preprocessing, Postprocess, Ensemble]


def sections(cls):
    """A dataclass and those in its fields."""
    yield cls
    for hint in hints_of(cls).values():
        for kind in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(kind) and inspect.isclass(kind):
                yield from sections(kind)


def numbers_without_range(hint):
    if typing.get_origin(hint) is typing.Annotated:
        return []
    if hint in (int, float):
        return [hint]
    if typing.get_origin(hint) is typing.Literal:
        return []
    return [kind for part in typing.get_args(hint) for kind in numbers_without_range(part)]


@pytest.mark.parametrize("cls", sorted({part for kind in KINDS for part in sections(kind)}, key=str))
def test_every_number_has_a_range_that_holds_its_default(cls):
    assert issubclass(cls, configs.Checked)
    for name, hint in hints_of(cls).items():
        assert not numbers_without_range(hint), f"{cls.__name__}.{name} has no range"
    if not any(field.default is field.default_factory is dataclasses.MISSING for field in dataclasses.fields(cls)):
        cls()


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.5], [1, -1e-9, float("nan"), float("inf"), 10**400]),
        ("(0, inf)", [1e-300, 10**300], [0, float("nan"), float("inf"), -1]),
        ("(0, inf]", [1, float("inf")], [0, float("nan")]),
        ("[1, 1000000]", [1, 10**6], [0, 10**6 + 1, 10**25]),
    ],
)
def test_ranges(text, inside, outside):
    assert all(value in Range(text) for value in inside)
    assert not any(value in Range(text) for value in outside)


@pytest.mark.parametrize(
    ("cls", "override", "words"),
    [
        (TrainConfig, "optim.weight_decay=.nan", "optim.weight_decay must be a number in [0, inf), not nan"),
        (TrainConfig, "optim.lr=.inf", "optim.lr must be a number in (0, inf), not inf"),
        (TrainConfig, "optim.betas=[0.9, 1]", "optim.betas[1] must be a number in [0, 1), not 1.0"),
        (TrainConfig, f"model.encoder.layers={10**25}", f"whole number in [0, 1000], not {10**25}"),
        (TrainConfig, "model.head=[0]", "model.head[0] must be a whole number in [1, 65536], not 0"),
        (TrainConfig, "nearest_label={au: -1}", "nearest_label.au must be a whole number in [0, 1000000000], not -1"),
        (TrainConfig, "patience=0", "patience must be a whole number in [1, 1000000], not 0"),
        (TrainConfig, "weighting.au=-.inf", "weighting.au must be a number in [0, inf), not -inf"),
        (TrainConfig, "model.encoder={kind: tcn, layers: 60}", "layers must be at most 20"),
        (TrainConfig, "loss.focal=1e999", "loss.focal must be a number in [0, inf), not inf"),
        (Recipe, "seeds=[-1]", "seeds[0] must be a whole number in [0,"),
        (PretrainConfig, "mask_ratio=1", "mask_ratio must be a number in (0, 1), not 1.0"),
        (PretrainConfig, "decoder.depth=1e25", "decoder.depth must be a whole number in [1, 256]"),
        (PretrainConfig, "decoder.heads=3", "decoder.width must be a multiple of 4 and of the 3 heads"),
        (FinetuneConfig, "task_weights={au: .nan}", "task_weights.au must be a number in [0, inf), not nan"),
        (FinetuneConfig, "head.hidden=[1, 1000000]", "head.hidden[1] must be a whole number in [1, 65536]"),
    ],
)
def test_absurd_values_are_refused_with_the_key_the_value_and_the_range(cls, override, words):
    start = {"members": ["a"]} if cls is Recipe else None
    with pytest.raises(UserError) as caught:
        configs.load(cls, start, [override])
    assert words in str(caught.value) and str(caught.value).startswith(override[:100])


def test_configs_made_in_python_are_checked_too():
    for make in (lambda: TrainConfig(epochs=0), lambda: DecoderConfig(depth=0), lambda: SourceConfig((), (), every=0)):
        with pytest.raises(ValueError, match="must be a whole number in"):
            make()


def test_the_page_prints_ranges():
    lines = page(TrainConfig()).splitlines()
    assert "epochs: 30  # a whole number in [1, 1000000]" in lines
    assert "  betas: [0.9, 0.999]  # a list of 2 numbers in [0, 1)" in lines
    assert "patience: null  # a whole number in [1, 1000000] or null" in lines
