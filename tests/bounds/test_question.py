"""Bounds of several methods become one."""

import torch

from cheaplip.bounds.question import UpperBound, smallest


def test_what_one_method_knows_is_kept_where_another_has_the_smaller_value():
    pairwise = torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    found = smallest([UpperBound(5.0, "search", "all inputs", pairwise), UpperBound(4.0, "product", "all inputs")])
    assert (found.value, found.method) == (4.0, "product")
    assert torch.equal(found.pairwise, pairwise)


def test_methods_may_compute_on_different_devices():
    there, here = torch.ones(2, 2, device="meta"), torch.ones(2, 2)
    found = smallest([UpperBound(5.0, "search", "all inputs", there), UpperBound(4.0, "ellipsoid", "all inputs", here)])
    assert found.pairwise.device.type == "meta"
