"""The bound's gradient by vectors is that of the matrices."""

import math

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cheaplip.bounds.multipliers.certificate import Chain, output_gram
from cheaplip.bounds.multipliers.gradient import Tracing, bound_with_gradient
from cheaplip.bounds.multipliers.start import gram_multipliers
from support.chains import INTERVALS, by_matrices, random_chain


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_gradients_of_the_bound_are_right(seed):
    torch.manual_seed(seed)
    chain = random_chain([3, 4, 3, 2])
    logs = [(log - 1).requires_grad_() for log in gram_multipliers(chain)[0]]
    weights = [weight.requires_grad_() for weight in chain.weights]
    assert torch.autograd.gradcheck(
        lambda *inputs: by_matrices(inputs[:3], inputs[3:], chain.slopes), (*weights, *logs), atol=1e-4
    )


@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(2, 6), min_size=3, max_size=6), interval=INTERVALS)
def test_the_gradient_by_vectors_is_that_of_the_matrices(seed, widths, interval):
    """(-1, 1) is left to the tests of `CertificateRegularizer`: there the multipliers are scaled, unlike here."""
    assume(sum(interval) != 0)
    torch.manual_seed(seed)
    chain = random_chain(widths, *interval)
    variables = [*chain.weights, *(log - 0.5 for log in gram_multipliers(chain)[0])]
    for variable in variables:
        variable.requires_grad_()
    slow = by_matrices(chain.weights, variables[len(chain.weights) :], chain.slopes)
    fast, used = bound_with_gradient(chain, variables[len(chain.weights) :])
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0)
    assert [log.tolist() for log in used] == [log.tolist() for log in variables[len(chain.weights) :]]
    if slow.isfinite():
        for by_vectors, slowly in zip(*(torch.autograd.grad(bound, variables) for bound in (fast, slow)), strict=True):
            torch.testing.assert_close(by_vectors, slowly, rtol=1e-6, atol=1e-8)


def test_the_gradient_by_vectors_through_symbols_groups_and_contractions():
    """The matrices' gradient: autograd through `output_gram`, which scales the multipliers of contractions alike."""
    torch.manual_seed(0)
    stack = torch.randn(5, 4, 3, dtype=torch.complex128)
    weights = [stack, *(torch.randn(*shape, dtype=torch.float64) for shape in ((6, 8), (4, 6), (3, 4)))]
    steep = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    slopes = [(-steep, steep), (zero, one), (-one, one)]
    logs = [torch.randn(4).double(), torch.randn(3).double() - 9, torch.randn(2).double()]
    variables = [variable.requires_grad_() for variable in (*weights, *logs)]
    gram = output_gram(Chain(weights, slopes, [4, 3, 2]), logs, Tracing())
    slow = torch.linalg.eigvalsh(gram).amax().sqrt()
    fast, used = bound_with_gradient(Chain(weights, slopes, [4, 3, 2]), logs)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0)
    assert not any(log.requires_grad for log in used)
    for by_vectors, slowly in zip(*(torch.autograd.grad(bound, variables) for bound in (fast, slow)), strict=True):
        torch.testing.assert_close(by_vectors, slowly, rtol=1e-6, atol=1e-9)


def test_weights_that_are_not_finite_prove_nothing():
    chain = random_chain([3, 4, 3, 2], -1.0, 1.0)
    logs = gram_multipliers(chain)[0]
    chain.weights[1][0, 0] = math.nan
    assert bound_with_gradient(chain, logs)[0] == math.inf
