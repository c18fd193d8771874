"""Multipliers that are known from a training: the search goes on from them, and is never above what they prove."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import CertificateRegularizer, lipschitz_bracket
from cheaplip.bounds.multipliers.bound import certified, pair_bounds
from cheaplip.bounds.multipliers.certificate import proved_bound
from cheaplip.bounds.multipliers.search import search_multipliers
from cheaplip.bounds.upper import upper_bound
from cheaplip.errors import InputError
from cheaplip.models import cnn, mlp
from support.chains import INTERVALS, random_chain


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 6), interval=INTERVALS, far=st.sampled_from([0.0, 3.0]))
def test_no_search_ends_above_what_is_known_or_would_be_found_without(seed, depth, interval, far):
    torch.manual_seed(seed)
    chain = random_chain([3, *[5] * depth, 2], *interval)
    known = [log - 0.5 - far * torch.rand(5).double() for log in search_multipliers(chain, iterations=20)]
    proved = proved_bound(chain, known)
    at_once, later = (certified(chain, known=known, deadline=deadline) for deadline in (0.0, torch.inf))
    assert later.value <= at_once.value * (1 + 1e-6)
    if proved is not None:
        assert at_once.value <= proved[0]
        assert (at_once.pairwise <= pair_bounds(proved[1])).all() or at_once.value < proved[0]
    assert later.value <= 1.01 * certified(chain).value


def trained(model, shape):
    """Multipliers that have followed weights which moved."""
    certificate, optimizer = CertificateRegularizer(model, shape), torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(5):
        certificate.bound().backward()
        optimizer.step()
        certificate.step()
        optimizer.zero_grad()
    return certificate


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: mlp((6,), 3, hidden=(12, 10, 8), activation="relu"), (6,)),
        (lambda: mlp((6,), 3, hidden=(12, 10, 8), activation="sigmoid"), (6,)),  # bounded: narrower slopes than in training
        (
            lambda: nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU()),
            (6,),
        ),
        (lambda: cnn((1, 8, 8), 4, hidden=(3, 5, 12)), (1, 8, 8)),  # contractions, whose multipliers are at the boundary
    ],
)
def test_the_final_bound_is_never_above_that_of_the_training(model, shape):
    f = model().eval()
    certificate = trained(f, shape)
    proved, known = certificate.upper_bound(), certificate.multipliers()
    assert upper_bound(f, shape, multipliers=known, deadline=0.0).value <= proved
    bracket = lipschitz_bracket(f, torch.rand(4, *shape), multipliers=known, budget=0.01, domain=(0.0, 1.0))
    assert bracket.lower <= bracket.upper <= proved


def test_multipliers_of_another_network_are_refused():
    known = trained(mlp((6,), 3, hidden=(12,)), (6,)).multipliers()
    with pytest.raises(InputError, match=r"vectors of 8; got \(12,\)"):
        lipschitz_bracket(mlp((6,), 3, hidden=(8,)), torch.rand(2, 6), multipliers=known)
    assert certified(random_chain([3, 4, 2]), known=[torch.full((4,), 99.0).double()]).value > 0  # infeasible: a start like any
