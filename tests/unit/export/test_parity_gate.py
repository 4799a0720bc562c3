"""How much the gates of the export let pass: no network that is wrong somewhere, no picture that is visibly another."""

import contextlib
import math

import numpy as np
import pytest
import torch
from onnx import helper

from export.networks import GraphSpec, TensorFace
from export.parity import Gate, ParityError, check_network, check_pipeline
from export.precision import FiniteRestorer, PrecisionGate, check_precision
from export.variants import load_original
from latent_pmrf.flow.statistics import LatentStatistics
from tests.small_graphs import SIDE, model_of

LEVEL = 2 / 255  # of 8 bits, where pictures are from -1 to 1


def checked(nodes, **constants):
    """The error of a graph that should give back what it is given, which is never beyond 50 and mostly about 1."""
    face = TensorFace("x", (SIDE,), (-50.0, 50.0))
    spec = GraphSpec("same", torch.nn.Identity(), (face,), TensorFace("y", (SIDE,)))
    arrays = {name: np.array(value, np.float32 if name != "axes" else np.int64) for name, value in constants.items()}
    return check_network(spec, model_of(nodes, arrays), LatentStatistics((0.0,), (1.0,), (0.1,)), Gate().relative_error)


def off_by(value):
    """A graph that is wrong by so much at one of its places."""
    return [helper.make_node("Add", ["x", "off"], ["y"])], {"off": [0.0] * (SIDE - 1) + [value]}


def off_beyond(low, high):
    """A graph that is right from `low` to `high` alone."""
    return [helper.make_node("Clip", ["x", "low", "high"], ["y"])], {"low": low, "high": high}


ROWS_MEET = [
    helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
    helper.make_node("Sub", ["x", "mean"], ["apart"]),
    helper.make_node("Mul", ["apart", "little"], ["wrong"]),
    helper.make_node("Add", ["x", "wrong"], ["y"]),
]
NOT_AT_THE_ENDS = [
    helper.make_node("Abs", ["x"], ["size"]),
    helper.make_node("Sub", ["most", "size"], ["room"]),
    helper.make_node("Div", ["room", "room"], ["one"]),
    helper.make_node("Mul", ["x", "one"], ["y"]),
]


def test_a_graph_that_computes_the_same_passes():
    assert checked([helper.make_node("Identity", ["x"], ["y"])]) == 0


def test_an_error_below_the_tolerance_passes_and_is_told():
    nodes, constants = off_by(4e-5)
    assert 1e-5 < checked(nodes, **constants) < 1e-4


@pytest.mark.parametrize(
    ("nodes", "constants", "where"),
    [
        pytest.param(*off_by(3e-4), "batch 1", id="at one place of many"),
        pytest.param(ROWS_MEET, {"axes": [0], "little": 0.01}, "batch 3", id="where faces meet in a batch"),
        pytest.param(*off_beyond(-49.0, 50.0), "all lowest", id="at the low end"),
        pytest.param(*off_beyond(-50.0, 49.0), "all highest", id="at the high end"),
        pytest.param(NOT_AT_THE_ENDS, {"most": 50.0}, "not finite", id="no number at the ends"),
    ],
)
def test_a_graph_that_is_wrong_somewhere_is_refused(nodes, constants, where):
    with pytest.raises(ParityError, match=where):
        checked(nodes, **constants)


@pytest.fixture(scope="module")
def original(exported):
    return load_original(exported[1], lambda _line: None)


@contextlib.contextmanager
def decoder_off_by(original, value):
    """The reference's pictures are brighter than the bundle's."""
    bias = original.trained.vae.decoder.conv_out.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias.add_(value)
        yield original.trained.restorer
    finally:
        with torch.no_grad():
            bias.copy_(kept)


@pytest.mark.parametrize(("levels", "passes"), [(0.15, True), (0.5, False), (math.nan, False)])
def test_pictures_may_differ_by_a_quarter_of_a_level(original, levels, passes):
    with decoder_off_by(original, levels * LEVEL) as restorer:
        refusal = contextlib.nullcontext() if passes else pytest.raises(ParityError, match="a pixel differs by")
        with refusal:
            assert 0.1 < check_pipeline(restorer, original.repository, (1,), Gate().levels) <= 0.25


@pytest.mark.parametrize(("levels", "passes"), [(1.0, True), (2.0, False), (math.nan, False)])
def test_half_precision_may_cost_a_picture_a_level_and_not_two(original, levels, passes):
    bundle = FiniteRestorer(original.repository, 1)
    with decoder_off_by(original, levels * LEVEL) as restorer:
        refusal = contextlib.nullcontext() if passes else pytest.raises(ParityError, match="a picture has")
        with refusal:
            assert check_precision(restorer, bundle, (1,), PrecisionGate()) == pytest.approx(48.1, abs=0.3)
