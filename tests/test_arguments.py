"""Public functions take numbers of any kind and length, or say what is wrong with them."""

import pytest
import torch

from cheaplip import LipschitzRegularizer, perturbed_pairs, uniform_pairs
from cheaplip.errors import InputError
from support.networks import dense, digits


def test_an_integer_longer_than_torchs_is_a_float():
    assert uniform_pairs(0, 10**30, 5, 1e29).u.max() > 1e28


@pytest.mark.parametrize(
    "call",
    [
        lambda n: uniform_pairs(torch.zeros(3), n, 5, 0.1),
        lambda n: perturbed_pairs(torch.zeros(3, 2), noise=n),
        lambda n: LipschitzRegularizer(dense(), perturbed_pairs(digits(10)[0]), domain=(0, n)),
    ],
)
def test_a_number_that_no_float_holds_is_refused(call):
    with pytest.raises(InputError, match="at most 1e308"):
        call(10**400)
