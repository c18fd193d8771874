"""Algorithm 1 against the loop, the safe variants, and what a step must never do."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import oracles
from cheaplip.ascent import GROWTH, accepted_step, keep_valid, normalized_step, printed_step, quotient_and_gradients
from cheaplip.norms import sample_norm
from cheaplip.quotient import difference_quotient

SEEDS = st.integers(0, 10_000)
SHAPE = (2, 3)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def points(seed, n=5, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(n, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return u, u + spread * (v - u)


@given(seed=SEEDS, tau=st.floats(1e-3, 10))
def test_the_printed_step_is_algorithm_1(seed, tau):
    model, (u, v) = network(seed), points(seed)
    _, gradients = quotient_and_gradients(model, u, v)
    expected_u, expected_v = oracles.algorithm_1(model, u, v, tau)
    new_u, new_v = printed_step((u, v), gradients, tau)
    torch.testing.assert_close(new_u, expected_u)
    torch.testing.assert_close(new_v, expected_v)


@given(seed=SEEDS)
def test_the_gradient_is_that_of_half_the_squared_quotient(seed):
    model, (u, v) = network(seed), points(seed, n=1)
    quotient, (grad_u, _) = quotient_and_gradients(model, u, v)
    step = 1e-6 * torch.randn(u.shape, dtype=torch.float64)
    ahead, behind = (oracles.quotient(model, (u + sign * step)[0], v[0]) ** 2 / 2 for sign in (1, -1))
    assert (ahead - behind) / 2 == pytest.approx(float((grad_u * step).sum()), rel=1e-4, abs=1e-12)
    assert quotient.item() == pytest.approx(oracles.quotient(model, u[0], v[0]))


def test_steps_take_one_size_a_pair():
    model, (u, v) = network(), points(0)
    _, gradients = quotient_and_gradients(model, u, v)
    sizes = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    for rule in (printed_step, normalized_step):
        new_u, _ = rule((u, v), gradients, sizes)
        one_u, _ = rule((u, v), gradients, 1.0)
        torch.testing.assert_close(new_u - u, sizes.double()[:, None, None] * (one_u - u))


@given(seed=SEEDS, size=st.floats(1e-3, 2))
def test_a_normalized_step_has_the_stated_length_and_direction(seed, size):
    model, (u, v) = network(seed), points(seed)
    _, (grad_u, grad_v) = quotient_and_gradients(model, u, v)
    new_u, new_v = normalized_step((u, v), (grad_u, grad_v), size)
    move = torch.cat([(new_u - u).flatten(1), (new_v - v).flatten(1)], dim=1)
    gradient = torch.cat([grad_u.flatten(1), grad_v.flatten(1)], dim=1)
    torch.testing.assert_close(move.norm(dim=1), size * sample_norm(u - v))
    torch.testing.assert_close(nn.functional.cosine_similarity(move, gradient), torch.ones(5, dtype=torch.float64))


@given(seed=SEEDS, inner=st.floats(-4, 4), outer=st.floats(-4, 4))
def test_a_normalized_step_is_the_same_in_any_units(seed, inner, outer):
    """Of g(x) = b f(x / a) from (a u, a v), it is a times the step of f from (u, v)."""
    model, (u, v) = network(seed), points(seed)
    a, b = 10.0**inner, 10.0**outer
    expected = normalized_step((u, v), quotient_and_gradients(model, u, v)[1], 0.3)
    scaled = quotient_and_gradients(lambda x: b * model(x / a), a * u, a * v)[1]
    actual = normalized_step((a * u, a * v), scaled, 0.3)
    torch.testing.assert_close(actual[0] / a, expected[0])
    torch.testing.assert_close(actual[1] / a, expected[1])


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_a_normalized_step_survives_gradients_at_the_ends_of_single_precision(scale):
    u, v = (x.float() for x in points(0))
    gradients = torch.randn_like(u), torch.randn_like(u)
    expected = normalized_step((u, v), gradients, 0.3)
    actual = normalized_step((u, v), (scale * gradients[0], scale * gradients[1]), 0.3)
    torch.testing.assert_close(actual, expected)


def test_a_pair_without_a_gradient_stays():
    u, v = points(0)
    still = torch.zeros_like(u), torch.zeros_like(v)
    for rule in (printed_step, normalized_step):
        new_u, new_v = rule((u, v), still, 1.0)
        assert torch.equal(new_u, u)
        assert torch.equal(new_v, v)


@given(seed=SEEDS, size=st.floats(1e-3, 1e4), box=st.sampled_from([None, (-1.0, 1.0)]))
def test_an_accepted_step_never_lowers_a_quotient_and_stores_the_step_sizes(seed, size, box):
    model, (u, v) = network(seed), points(seed)
    if box:
        u, v = u.clamp(*box), v.clamp(*box)
    sizes = torch.full((5,), size, dtype=torch.float64)
    quotient, gradients = quotient_and_gradients(model, u, v)
    for _ in range(4):
        (new_u, new_v), new_quotient, new_sizes = accepted_step(
            model, (u, v), gradients, quotient, sizes, separation=1e-3, domain=box
        )
        rose = new_quotient > quotient
        assert bool((new_quotient >= quotient).all())
        torch.testing.assert_close(difference_quotient(model, new_u, new_v).detach(), new_quotient)
        torch.testing.assert_close(new_sizes, torch.where(rose, sizes * 1.3, sizes / 1.3))
        assert torch.equal(new_u[~rose], u[~rose])
        u, v, quotient, sizes = new_u, new_v, new_quotient, new_sizes
        quotient, gradients = quotient_and_gradients(model, u, v)


def test_step_sizes_go_both_ways():
    model, (u, v) = network(), points(3)
    quotient, gradients = quotient_and_gradients(model, u, v)
    for size, factor in ((1e-4, GROWTH), (1e6, 1 / GROWTH)):
        sizes = torch.full((5,), size, dtype=torch.float64)
        *_, new = accepted_step(model, (u, v), gradients, quotient, sizes, separation=1e-3)
        torch.testing.assert_close(new, sizes * factor)


def test_one_small_step_raises_every_quotient():
    model, (u, v) = network(), points(1)
    quotient, gradients = quotient_and_gradients(model, u, v)
    for rule in (printed_step, normalized_step):
        assert bool((difference_quotient(model, *rule((u, v), gradients, 1e-3)) > quotient).all())


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
    u, v = points(seed)
    u, v = u.clamp(-2, 2), v.clamp(-2, 2)
    separation = 0.5 * float(sample_norm(u - v).min())
    proposed_u, proposed_v = points(seed + 1, spread=spread)
    new_u, new_v = keep_valid((proposed_u + shift, proposed_v - sign * shift), (u, v), separation, domain)
    assert new_u.isfinite().all()
    assert new_v.isfinite().all()
    assert bool((sample_norm(new_u - new_v) >= separation * 0.998).all())
    if box:
        assert torch.cat([new_u, new_v]).abs().max() <= 2


def test_a_valid_proposal_is_taken_as_it_is():
    old, new = points(0), points(1)
    kept = keep_valid(new, old, 1e-3, (-10.0, 10.0))
    assert torch.equal(kept[0], new[0])
    assert torch.equal(kept[1], new[1])


def test_a_close_pair_is_stretched_about_its_midpoint():
    u, v = torch.tensor([[1.0, 0.1]]), torch.tensor([[1.0, -0.1]])
    new_u, new_v = keep_valid((u, v), (u + 5, v - 5), 1.0)
    torch.testing.assert_close(new_u, torch.tensor([[1.0, 0.5]]))
    torch.testing.assert_close(new_v, torch.tensor([[1.0, -0.5]]))


def test_no_gradient_reaches_the_parameters():
    model, (u, v) = network(), points(0)
    model[1].weight.grad = torch.full_like(model[1].weight, 7.0)
    u.requires_grad_()
    quotient, gradients = quotient_and_gradients(model, u, v)
    accepted_step(model, (u.detach(), v), gradients, quotient, torch.ones(5), separation=1e-3)
    assert bool((model[1].weight.grad == 7).all())
    assert model[1].bias.grad is None
    assert u.grad is None
    assert not quotient.requires_grad


def test_works_where_gradients_are_off():
    model, (u, v) = network(), points(0)
    with torch.no_grad():
        quotient, gradients = quotient_and_gradients(model, u, v)
    assert gradients[0].abs().sum() > 0
    assert quotient.min() > 0
