"""Pair sets: the ways to make them, seeds, redrawing, refusals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip import (
    LipschitzRegularizer,
    PairSet,
    embedding_pairs,
    matched_pairs,
    perturbed_pairs,
    uniform_pairs,
)
from cheaplip.errors import InputError
from cheaplip.norms import sample_norm
from cheaplip.pairs.sets import corner_points

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
SEEDS = st.integers(0, 1000)


def inputs(shape, n=6):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


MAKERS = {
    "perturbed": lambda shape, seed: perturbed_pairs(inputs(shape), seed=seed),
    "matched": lambda shape, seed: matched_pairs(inputs(shape), seed=seed),
    "uniform": lambda shape, seed: uniform_pairs(-torch.ones(shape), torch.ones(shape), 6, 0.1, seed=seed),
}


@pytest.mark.parametrize("kind", MAKERS)
@given(shape=SHAPES, seed=SEEDS)
def test_a_seed_means_the_same_pairs_and_redrawing_others(kind, shape, seed):
    pairs, again = MAKERS[kind](shape, seed), MAKERS[kind](shape, seed)
    assert len(pairs) == 6
    assert pairs.u.shape == pairs.v.shape == (6, *shape)
    assert torch.equal(pairs.u, again.u)
    assert torch.equal(pairs.v, again.v)
    fresh = pairs.redrawn(torch.Generator().manual_seed(seed))
    assert torch.equal(pairs.v, fresh.v)  # one generator of one seed: the recipe holds nothing else
    other = fresh.redrawn(torch.Generator().manual_seed(seed + 1))
    assert len(other) == 6
    different = MAKERS[kind](shape, seed + 1)
    assert torch.equal(other.v, different.v)


@given(shape=SHAPES, noise=st.floats(1e-3, 10), seed=SEEDS)
def test_perturbed_pairs_add_at_most_the_noise(shape, noise, seed):
    x = inputs(shape)
    pairs = perturbed_pairs(x, noise=noise, seed=seed)
    assert torch.equal(pairs.u, x)
    step = pairs.v - pairs.u
    assert step.min() >= -1e-6
    assert step.max() <= noise * (1 + 1e-5) + 1e-6


def test_perturbation_is_uniform():
    step = perturbed_pairs(torch.zeros(1000, 10), noise=2).v
    assert step.mean().item() == pytest.approx(1, abs=0.03)
    assert step.var().item() == pytest.approx(4 / 12, abs=0.02)


@given(n=st.integers(2, 30), seed=SEEDS)
def test_matched_pairs_are_one_cycle_through_all_inputs(n, seed):
    pairs = matched_pairs(torch.arange(float(n))[:, None], seed=seed)
    following = dict(zip(pairs.u[:, 0].tolist(), pairs.v[:, 0].tolist(), strict=True))
    visited, at = [], 0.0
    for _ in range(n):
        visited.append(at)
        at = following[at]
    assert sorted(visited) == list(range(n))
    assert at == 0


@given(shape=SHAPES, seed=SEEDS)
def test_uniform_pairs_start_in_the_box(shape, seed):
    low = -torch.rand(shape)
    high = low + 0.5 + torch.rand(shape)
    pairs = uniform_pairs(low, high, 50, 0.1, seed=seed)
    assert bool(((pairs.u >= low) & (pairs.u <= high)).all())


def test_uniform_pairs_fill_the_box_and_step_normally():
    pairs = uniform_pairs(torch.tensor([-4.0]), torch.tensor([4.0]), 20_000, 0.5)
    assert pairs.u.mean().item() == pytest.approx(0, abs=0.1)
    assert pairs.u.var().item() == pytest.approx(64 / 12, abs=0.15)
    assert (pairs.v - pairs.u).std().item() == pytest.approx(0.5, abs=0.02)
    assert (pairs.v - pairs.u).mean().item() == pytest.approx(0, abs=0.02)


def test_numbers_serve_as_corners():
    pairs = uniform_pairs(-1.0, 1.0, 3, 0.1)
    assert pairs.u.shape == (3, 1)


def test_inputs_keep_their_precision_and_stay_untouched():
    x = torch.rand(4, 3, dtype=torch.float64)
    before = x.clone()
    assert perturbed_pairs(x).v.dtype == torch.float64
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["perturbed", "uniform"])
def test_a_step_that_rounding_swallows_is_replaced(kind):
    n = 3_000_000  # about seven such steps
    if kind == "uniform":
        pairs = uniform_pairs(torch.tensor([4.0]), torch.tensor([8.0]), n, 0.1)
    else:
        pairs = perturbed_pairs(torch.linspace(4, 7.9, n)[:, None], noise=0.1)
    assert len(pairs) == n  # a pair set has no pair with u = v: it would have been refused


def test_given_pairs_cannot_be_drawn_again():
    with pytest.raises(InputError, match="perturbed_pairs"):
        PairSet(torch.zeros(1, 1), torch.ones(1, 1)).redrawn(torch.Generator())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PairSet(torch.zeros(0, 2), torch.zeros(0, 2)), "at least one pair"),
        (lambda: PairSet(torch.zeros(2), torch.ones(2)), r"shapes \(2,\)"),
        (lambda: PairSet(torch.zeros(2, 1), torch.ones(2, 2)), r"\(2, 1\) and \(2, 2\)"),
        (lambda: PairSet(torch.zeros(1, 2), torch.zeros(1, 2)), "1 pairs with u = v"),
        (lambda: PairSet(torch.tensor([[math.nan]]), torch.zeros(1, 1)), "finite"),
        (lambda: PairSet(torch.zeros(1, 1), torch.tensor([[math.inf]])), "finite"),
        (lambda: PairSet(torch.zeros(1, 1).int(), torch.ones(1, 1)), r"torch\.int32 and torch\.float32"),
        (lambda: perturbed_pairs(torch.zeros(3, 2).long()), "int64"),
        (lambda: perturbed_pairs(torch.zeros(3, 2), noise=0), "noise > 0"),
        (lambda: perturbed_pairs(torch.zeros(3, 2), noise=math.nan), "noise > 0"),
        (lambda: perturbed_pairs(torch.full((3, 2), 1e6), noise=1e-3), "raise the noise"),
        (lambda: perturbed_pairs(torch.zeros(0, 2)), "at least one pair"),
        (lambda: matched_pairs(torch.zeros(1, 2)), "at least two"),
        (lambda: matched_pairs(torch.zeros(2, 2)), "u = v"),
        (lambda: uniform_pairs(torch.ones(2), torch.zeros(2), 3, 0.1), "low < high"),
        (lambda: uniform_pairs(torch.zeros(2), torch.ones(3), 3, 0.1), "one shape"),
        (lambda: uniform_pairs(torch.zeros(2), torch.ones(2), 0, 0.1), "number n of pairs"),
        (lambda: uniform_pairs(torch.zeros(2), torch.ones(2), 2.5, 0.1), "n to be int"),
        (lambda: uniform_pairs(torch.zeros(2), torch.ones(2), 3, -1.0), "noise > 0"),
    ],
)
def test_refusals(make, match):
    with pytest.raises(InputError, match=match):
        make()


@pytest.mark.parametrize("domain", [(0, 1), (-2.0, 3.0)])
@given(shape=SHAPES, seed=SEEDS)
def test_corner_pairs_start_at_corners_and_stay_in_the_box(domain, shape, seed):
    like = torch.empty(30, 2, *shape, dtype=torch.float64)
    points = corner_points(like, domain, torch.Generator().manual_seed(seed))
    assert points.shape == like.shape
    assert points.dtype == like.dtype
    u, v = points.unbind(1)
    assert set(u.flatten().tolist()) == {float(domain[0]), float(domain[1])}
    assert domain[0] <= v.min()
    assert v.max() <= domain[1]
    assert sample_norm(u - v).min() > 0
    assert sample_norm(u - v, math.inf).max() <= 0.1 * (domain[1] - domain[0])


def test_embedded_tokens_and_their_neighbours():
    table, ids = torch.nn.Embedding(50, 8), torch.randint(50, (200, 5))
    pairs = embedding_pairs(table, ids, noise=0.5)
    assert torch.equal(pairs.u, table(ids))
    assert float((pairs.v - pairs.u).std() / pairs.u.std()) == pytest.approx(0.5, rel=0.05)
    assert not pairs.u.requires_grad
    with torch.no_grad():
        table.weight += 1.0
    assert torch.equal(pairs.redrawn(torch.Generator()).u, table(ids))
    with pytest.raises(InputError, match="ids of an integer type"):
        embedding_pairs(table, torch.rand(3, 4))


def test_pairs_that_move_with_the_network_are_drawn_again_after_a_round():
    table, head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 2)
    regularizer = LipschitzRegularizer(head, embedding_pairs(table, torch.arange(40)), active=10, interval=1)
    with torch.no_grad():
        table.weight += 5.0
    for _ in range(3):
        regularizer.step()
        assert float(regularizer.pairs.u.mean()) < 1
    regularizer.step()
    assert float(regularizer.pairs.u.mean()) > 4
