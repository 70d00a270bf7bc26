import numpy as np
import torch

from abaw_seq.data import feature_store
from abaw_seq.models.heads import Standardise, TaskHead


def test_standardisation_fits_the_given_rows_and_columns_alone(monkeypatch):
    monkeypatch.setattr(feature_store, "CHUNK_ROWS", 64)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(3.0, 2.0, (1000, 4)).astype(np.float32))
    features[:, 2] = 5.0
    layer = Standardise(4)
    rows = torch.arange(100, 600)
    layer.fit(features.__getitem__, rows, [slice(0, 3)])
    y = layer(features[rows][None])[0]
    assert y[:, :2].mean(0).abs().max() < 1e-5
    torch.testing.assert_close(y[:, :2].std(0, unbiased=False), torch.ones(2), atol=1e-5, rtol=0)
    assert torch.equal(y[:, 2], torch.zeros(500))  # a constant column is centred, not blown up
    assert torch.equal(y[:, 3], features[rows, 3])


def test_standardisation_travels_with_the_weights():
    layer = Standardise(3)
    layer.fit(torch.randn(50, 3).__getitem__, torch.arange(50), [slice(0, 3)])
    copy = Standardise(3)
    copy.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 3).half()
    assert torch.equal(layer(x), copy(x)) and layer(x).dtype == torch.float32


def test_a_heads_hidden_state_is_its_last_hidden_layer():
    head = TaskHead(10, (7, 5), 3, 0.5).eval()
    output, hidden = head(torch.randn(2, 4, 10))
    assert output.shape == (2, 4, 3) and hidden.shape == (2, 4, 5) and head.hidden_dim == 5
    assert (hidden >= 0).all()
    torch.testing.assert_close(head.output(hidden), output)
