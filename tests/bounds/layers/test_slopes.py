"""The slopes and values of activations as torch defines them, thresholds and approximations included, by dense scans."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds.layers.activations import derivative, slope_interval
from cheaplip.bounds.layers.constants import exact_copy
from cheaplip.bounds.layers.curvature import curvature
from cheaplip.bounds.layers.entrywise import Partly
from cheaplip.bounds.polynomials import Polynomial, Products, slopes, values
from cheaplip.bounds.zonotope import chord

MADE = {
    nn.GELU: [nn.GELU(), nn.GELU("tanh")],
    nn.Softplus: [nn.Softplus(), nn.Softplus(3.0), nn.Softplus(-2.0), nn.Softplus(0.5, 30.0)],
    nn.ELU: [nn.ELU(), nn.ELU(2.0)],
    nn.CELU: [nn.CELU(), nn.CELU(0.3)],
    nn.LeakyReLU: [nn.LeakyReLU(), nn.LeakyReLU(-1.0)],
    nn.Threshold: [nn.Threshold(0.5, 0.5)],
    Partly: [Partly(nn.SiLU(), torch.ones(1, dtype=torch.bool))],
}
KINDS = [kind for kind in derivative.registry if kind is not object and kind.__module__.startswith(("torch", "cheaplip"))]
ACTIVATIONS = [act.double().eval() for kind in KINDS for act in MADE.get(kind) or [kind()]]
SMOOTH = [act for act in ACTIVATIONS if curvature(act) is not None and not isinstance(act, Partly)]


def differentiated(act: nn.Module, z: torch.Tensor) -> torch.Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(act(z[:, None]).sum(), z)[0]


@settings(max_examples=200)
@given(act=st.sampled_from(ACTIVATIONS), centre=st.floats(-45, 45), decade=st.floats(-4, 1.5), near=st.booleans())
def test_no_slope_of_torch_leaves_its_interval(act, centre, decade, near):
    centre = {nn.Softplus: 20 / getattr(act, "beta", 1)}.get(type(act), 0.05 * centre) if near else centre
    z = centre + 10**decade * torch.linspace(-1, 1, 401, dtype=torch.float64)
    low, high = slope_interval(act, z.min(), z.max())
    found = differentiated(act, z)
    wrong = 1e-7 if isinstance(act, nn.Hardsigmoid | nn.CELU) else 0.0  # torch's derivatives have float32's 1/6 and 1/alpha
    assert (found >= low - wrong).all()
    assert (found <= high + wrong).all()


@settings(max_examples=100)
@given(act=st.sampled_from(SMOOTH), centre=st.floats(-45, 45), decade=st.floats(-4, 1.5), near=st.booleans())
def test_no_value_of_torch_leaves_its_polynomials_and_its_chord(act, centre, decade, near):
    if near and isinstance(act, nn.Softplus):
        centre = 20 / act.beta
    half, d = 10**decade, torch.linspace(-1, 1, 401, dtype=torch.float64)
    z, meant = centre + half * d, exact_copy(act)
    value = Polynomial(
        *(torch.full(size, n, dtype=torch.float64) for size, n in (((1,), centre), ((1, 1), half), ((1, 0), 0.0)))
    )
    square = 2 * d[:, None] ** 2 - 1
    none = torch.zeros(1).double()
    for found, (line, far) in (
        (differentiated(act, z), slopes(meant, value, none)),
        (act(z), values(meant, value, none, Products(1, none))),
    ):
        near_by = line.constant + d * line.linear[0, 0] + (square * line.rest[0]).sum(1)
        assert ((found - near_by).abs() <= far).all()
    m, least, most = chord(meant, z[:1], z[-1:])
    assert (act(z) - m * z >= least).all()
    assert (act(z) - m * z <= most).all()
