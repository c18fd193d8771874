"""Bounds of several methods become one."""

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cheaplip.bounds.graph import trace
from cheaplip.bounds.multipliers.chain import make_chain
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


class Devices(TorchFunctionMode):
    """Notes the devices of what is multiplied: `meta` itself takes any."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            self.seen.append({tensor.device.type for tensor in args})
        return function(*args, **(kwargs or {}))


def test_what_has_no_weights_is_computed_where_the_weights_are():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    layers = trace(model, (1, 4, 4)).last_chain.layers
    model.to("meta")
    with Devices() as devices:
        make_chain(layers, local=False)
    assert devices.seen == [{"meta"}]
