"""Algorithm 1 against the loop, the safe variants, and what a step must never do."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from cheaplip.norms import sample_norm
from cheaplip.pairs.ascent import GROWTH, accepted_step, climb, keep_valid, normalized_step, printed_step, quotient_and_gradient
from cheaplip.pairs.quotient import pair_quotient
from support import oracles

SEEDS = st.integers(0, 10_000)
SHAPE = (2, 3)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def points(seed, n=5, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return torch.stack([u, u + spread * (v - u)], dim=1)


def distances(pairs):
    return sample_norm(pairs[:, 0] - pairs[:, 1])


@given(seed=SEEDS, tau=st.floats(1e-3, 10))
def test_the_printed_step_is_algorithm_1(seed, tau):
    model, pairs = network(seed), points(seed)
    _, gradient = quotient_and_gradient(model, pairs)
    expected = torch.stack(oracles.algorithm_1(model, *pairs.unbind(1), tau), dim=1)
    torch.testing.assert_close(printed_step(pairs, gradient, tau), expected)


@given(seed=SEEDS)
def test_the_gradient_is_that_of_half_the_squared_quotient(seed):
    model, pairs = network(seed), points(seed, n=1)
    quotient, gradient = quotient_and_gradient(model, pairs)
    step = 1e-6 * torch.randn(pairs.shape, dtype=torch.float64)
    ahead, behind = (oracles.quotient(model, *(pairs + sign * step)[0]) ** 2 / 2 for sign in (1, -1))
    assert (ahead - behind) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-4, abs=1e-12)
    assert quotient.item() == pytest.approx(oracles.quotient(model, *pairs[0]))


def test_steps_take_one_size_a_pair():
    model, pairs = network(), points(0)
    _, gradient = quotient_and_gradient(model, pairs)
    sizes = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    for rule in (printed_step, normalized_step):
        one = rule(pairs, gradient, 1.0) - pairs
        torch.testing.assert_close(rule(pairs, gradient, sizes) - pairs, sizes.double()[:, None, None, None] * one)


@given(seed=SEEDS, size=st.floats(1e-3, 2))
def test_a_normalized_step_has_the_stated_length_and_direction(seed, size):
    model, pairs = network(seed), points(seed)
    _, gradient = quotient_and_gradient(model, pairs)
    move = normalized_step(pairs, gradient, size) - pairs
    torch.testing.assert_close(sample_norm(move), size * distances(pairs))
    cosine = nn.functional.cosine_similarity(move.flatten(1), gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(5, dtype=torch.float64))


@given(seed=SEEDS, inner=st.floats(-4, 4), outer=st.floats(-4, 4))
def test_a_normalized_step_is_the_same_in_any_units(seed, inner, outer):
    """Of g(x) = b f(x / a) from (a u, a v), it is a times the step of f from (u, v)."""
    model, pairs = network(seed), points(seed)
    a, b = 10.0**inner, 10.0**outer
    expected = normalized_step(pairs, quotient_and_gradient(model, pairs)[1], 0.3)
    scaled = quotient_and_gradient(lambda x: b * model(x / a), a * pairs)[1]
    torch.testing.assert_close(normalized_step(a * pairs, scaled, 0.3) / a, expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_a_normalized_step_survives_gradients_at_the_ends_of_single_precision(scale):
    pairs = points(0).float()
    gradient = torch.randn_like(pairs)
    expected = normalized_step(pairs, gradient, 0.3)
    torch.testing.assert_close(normalized_step(pairs, scale * gradient, 0.3), expected)


def test_a_pair_without_a_gradient_stays():
    pairs = points(0)
    for rule in (printed_step, normalized_step):
        assert torch.equal(rule(pairs, torch.zeros_like(pairs), 1.0), pairs)


@given(seed=SEEDS, size=st.floats(1e-3, 1e4), box=st.sampled_from([None, (-1.0, 1.0)]))
def test_an_accepted_step_never_lowers_a_quotient_and_stores_the_step_sizes(seed, size, box):
    model, pairs = network(seed), points(seed)
    if box:
        pairs = pairs.clamp(*box)
    sizes = torch.full((5,), size, dtype=torch.float64)
    quotient, gradient = quotient_and_gradient(model, pairs)
    for _ in range(4):
        new, new_quotient, new_sizes = accepted_step(model, pairs, gradient, quotient, sizes, separation=1e-3, domain=box)
        rose = new_quotient > quotient
        assert bool((new_quotient >= quotient).all())
        torch.testing.assert_close(pair_quotient(model, new).detach(), new_quotient)
        torch.testing.assert_close(new_sizes, torch.where(rose, sizes * 1.3, sizes / 1.3))
        assert torch.equal(new[~rose], pairs[~rose])
        pairs, quotient, sizes = new, new_quotient, new_sizes
        quotient, gradient = quotient_and_gradient(model, pairs)


def test_step_sizes_go_both_ways():
    model, pairs = network(), points(3)
    quotient, gradient = quotient_and_gradient(model, pairs)
    for size, factor in ((1e-4, GROWTH), (1e6, 1 / GROWTH)):
        sizes = torch.full((5,), size, dtype=torch.float64)
        *_, new = accepted_step(model, pairs, gradient, quotient, sizes, separation=1e-3)
        torch.testing.assert_close(new, sizes * factor)


def test_one_small_step_raises_every_quotient():
    model, pairs = network(), points(1)
    quotient, gradient = quotient_and_gradient(model, pairs)
    for rule in (printed_step, normalized_step):
        assert bool((pair_quotient(model, rule(pairs, gradient, 1e-3)) > quotient).all())


@given(seed=SEEDS, box=st.sampled_from([None, (-1.0, 1.0)]))
def test_a_climb_never_lowers_a_quotient_and_tells_the_truth(seed, box):
    model, pairs = network(seed), points(seed)
    if box:
        pairs = pairs.clamp(*box)
    before = pair_quotient(model, pairs)
    climbed, quotient = climb(model, pairs, steps=8, separation=1e-3, domain=box)
    assert bool((quotient >= before).all())
    torch.testing.assert_close(quotient, pair_quotient(model, climbed).detach())
    assert distances(climbed).min() >= 0.98e-3
    assert box is None or climbed.abs().max() <= 1


def test_a_climb_on_a_linear_map_ends_at_its_norm():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3).double()
    _, quotient = climb(lambda x: layer(x.flatten(1)), points(0), steps=300, separation=1e-6)
    torch.testing.assert_close(quotient, torch.linalg.matrix_norm(layer.weight, 2).detach().expand(5), rtol=1e-6, atol=0)


def test_a_pair_that_is_too_near_counts_for_nothing():
    model, pairs = network(), points(0, spread=1e-9)
    assert climb(model, pairs, steps=0, separation=1e-3)[1].tolist() == [0] * 5
    assert climb(model, pairs, steps=1, separation=1e-3)[1].min() > 0


PROPOSALS = st.sampled_from([0.0, 1e-9, 1.0, 1e3, float("inf"), float("nan")])


@given(
    seed=SEEDS,
    spread=st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e9]),
    shift=PROPOSALS,
    sign=st.sampled_from([-1, 0, 1]),
    box=st.booleans(),
)
@example(seed=0, spread=1.0, shift=float("inf"), sign=1, box=False)
def test_valid_pairs_stay_valid(seed, spread, shift, sign, box):
    """Whatever is proposed: finite, apart, and in the box if the old points were."""
    domain = (-2.0, 2.0) if box else None
    pairs = points(seed).clamp(-2, 2)
    separation = 0.5 * float(distances(pairs).min())
    proposed_u, proposed_v = points(seed + 1, spread=spread).unbind(1)
    new = keep_valid(torch.stack([proposed_u + shift, proposed_v - sign * shift], dim=1), pairs, separation, domain)
    assert new.isfinite().all()
    assert bool((distances(new) >= separation * 0.998).all())
    if box:
        assert new.abs().max() <= 2


def test_a_valid_proposal_is_taken_as_it_is():
    old, new = points(0), points(1)
    assert torch.equal(keep_valid(new, old, 1e-3, (-10.0, 10.0)), new)


def test_a_close_pair_is_stretched_about_its_midpoint():
    close = torch.tensor([[[1.0, 0.1], [1.0, -0.1]]])
    far = torch.tensor([[[6.0, 0.0], [-4.0, 0.0]]])
    torch.testing.assert_close(keep_valid(close, far, 1.0), torch.tensor([[[1.0, 0.5], [1.0, -0.5]]]))


def test_no_gradient_reaches_the_parameters():
    model, pairs = network(), points(0)
    model[1].weight.grad = torch.full_like(model[1].weight, 7.0)
    pairs.requires_grad_()
    quotient, gradient = quotient_and_gradient(model, pairs)
    accepted_step(model, pairs.detach(), gradient, quotient, torch.ones(5), separation=1e-3)
    assert bool((model[1].weight.grad == 7).all())
    assert model[1].bias.grad is None
    assert pairs.grad is None
    assert not quotient.requires_grad


def test_works_where_gradients_are_off():
    model, pairs = network(), points(0)
    with torch.no_grad():
        quotient, gradient = quotient_and_gradient(model, pairs)
    assert gradient.abs().sum() > 0
    assert quotient.min() > 0
