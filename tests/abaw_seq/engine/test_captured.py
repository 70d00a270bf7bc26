"""When a function is captured and replayed, with a stand-in for CUDA's graphs; the real ones are in tests/gpu."""

from __future__ import annotations

import pytest
import torch

from abaw_seq.engine import captured
from abaw_seq.engine.captured import CALLS_BEFORE, MOST_SHAPES, Captured


class Graph:
    """What a CUDA graph does: replaying computes from the tensors it reads into the tensor it writes."""

    def __init__(self, function, given, result):
        self.function, self.given, self.result = function, given, result

    def replay(self):
        self.result.copy_(self.function(*self.given))


@pytest.fixture(autouse=True)
def captures(monkeypatch) -> list[tuple[torch.Size, ...]]:
    """The shapes that were captured."""
    shapes = []

    def capture(function, *inputs):
        shapes.append(tuple(x.shape for x in inputs))
        given = tuple(x.clone() for x in inputs)
        result = torch.full(inputs[0].shape, torch.nan)
        return Graph(function, given, result), given, result

    monkeypatch.setattr(captured, "capture", capture)
    monkeypatch.setattr(captured, "aside", lambda function, *inputs: function(*inputs))
    return shapes


def test_each_shape_is_captured_once_after_its_first_calls(captures):
    calls = []
    add = Captured(lambda x, y: calls.append(1) or x + y, "add")
    inputs = [(torch.arange(4.0) + k, torch.ones(4) * k) for k in range(8)]
    results = [add(*pair) for pair in inputs[:CALLS_BEFORE]]
    assert not captures
    results += [add(*pair) for pair in inputs[CALLS_BEFORE:]]
    for (x, y), result in zip(inputs, results, strict=True):
        assert torch.equal(result, x + y)  # none was written over by a later call
    assert captures == [(torch.Size([4]), torch.Size([4]))] and len(calls) == 8
    assert torch.equal(add(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0)) and len(captures) == 1


def test_of_many_shapes_only_a_few_are_captured(captures):
    double = Captured(lambda x: 2 * x, "double")
    for _ in range(CALLS_BEFORE + 2):
        for length in range(1, MOST_SHAPES + 4):
            assert torch.equal(double(torch.ones(length)), torch.full((length,), 2.0))
    assert len(captures) == MOST_SHAPES


def test_what_cannot_be_captured_goes_on_step_by_step_and_says_so_once(monkeypatch, capsys):
    def refuse(function, *inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "capture", refuse)
    double = Captured(lambda x: 2 * x, "double")
    for count in (3, 2):
        for _ in range(CALLS_BEFORE + 2):
            assert torch.equal(double(torch.ones(count)), 2 * torch.ones(count))
    said = capsys.readouterr().err
    assert said.count("double: not captured") == 1 and "stream is capturing)" in said


def test_memory_that_runs_out_while_capturing_is_left_to_the_caller(monkeypatch):
    def exhausted(function, *inputs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(captured, "capture", exhausted)
    double = Captured(lambda x: 2 * x, "double")
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(CALLS_BEFORE + 1):
            double(torch.ones(3))
