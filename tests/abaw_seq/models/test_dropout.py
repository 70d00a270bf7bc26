import pytest
import torch

from abaw_seq.models.dropout import Dropout


def test_values_are_dropped_in_training_alone():
    x = torch.ones(3, 333)
    assert {0.0, 2.0} == set(Dropout(0.5)(x).unique().tolist())
    assert Dropout(0.0)(x) is x and Dropout(0.5).eval()(x) is x
    assert not Dropout(1.0)(x).any()


def test_a_probability_beyond_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)
