"""Constants of single layers against the dense matrices of the real operators, and what has no rule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from cheaplip.bounds.layers.activations import slope_interval
from cheaplip.bounds.layers.constants import infinity_norm, layer_norm
from cheaplip.bounds.upper import product_of_norms
from cheaplip.errors import UnsupportedModuleError
from cheaplip.models import cnn, mlp
from support import oracles

ROUNDING = 1 + 1e-9


@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid", 0, 1, 3, (2, 0)]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolutions_are_below_their_bound(seed, size, kernel, stride, padding, dilation, groups):
    stride = 1 if padding == "same" else stride
    spans = [dilation * (k - 1) + 1 for k in kernel]
    pads = (0, 0) if isinstance(padding, str) else padding if isinstance(padding, tuple) else (padding, padding)
    assume(padding == "same" or all(s + 2 * p >= span for s, p, span in zip(size, pads, spans, strict=True)))
    torch.manual_seed(seed)
    layer = nn.Conv2d(2, 2 * groups, kernel, stride, padding, dilation, groups)
    assert oracles.spectral_norm(layer, (2, *size)) <= layer_norm(layer, (2, *size)) * ROUNDING


@pytest.mark.parametrize("options", [{}, {"padding": "same"}, {"padding": 2, "dilation": 2}, {"groups": 3}])
def test_the_bound_of_a_convolution_is_close_on_images(options):
    layer = nn.Conv2d(3, 6, 3, **options)
    true = oracles.spectral_norm(layer, (3, 14, 12))
    assert true <= layer_norm(layer, (3, 14, 12)) <= 1.2 * true


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("padding", "grown"), [(0, 0), (1, 2), ("valid", 0), ("same", None)])
def test_the_bound_of_a_convolution_is_the_norm_of_the_periodic_one_on_the_padded_image(dilation, groups, padding, grown):
    layer = nn.Conv2d(2, 4, 3, padding=padding, dilation=dilation, groups=groups)
    periodic = nn.Conv2d(2, 4, 3, padding="same", padding_mode="circular", dilation=dilation, groups=groups)
    with torch.no_grad():
        layer.weight -= layer.weight.mean((2, 3), keepdim=True)  # else the constant image may be the steepest on any size
    periodic.load_state_dict(layer.state_dict())
    grown = 2 * dilation if grown is None else grown
    assert layer_norm(layer, (2, 5, 6)) == pytest.approx(oracles.spectral_norm(periodic, (2, 5 + grown, 6 + grown)))


def test_the_reshaped_kernel_is_no_bound():
    """A kernel of ones sums nine pixels; the norm of the kernel as a matrix is 3, of the convolution nearly 9."""
    layer = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.ones_(layer.weight)
    assert oracles.spectral_norm(layer, (1, 12, 12)) > 8
    assert layer_norm(layer, (1, 12, 12)) == pytest.approx(9)


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Linear(3, 5, bias=False), parametrizations.weight_norm(nn.Linear(5, 4))])
def test_linear_layers_have_their_spectral_norm(layer):
    expected = np.linalg.norm(layer.weight.detach().double().numpy(), 2)
    assert product_of_norms(layer, (layer.in_features,)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("layer", "shape"), [(nn.BatchNorm1d(4), (4,)), (nn.BatchNorm2d(4, affine=False), (4, 3, 2))])
def test_batch_normalisation_is_exact(layer, shape):
    layer.running_var.uniform_(0.01, 4)
    if layer.affine:
        nn.init.normal_(layer.weight)
    assert layer_norm(layer, shape) == pytest.approx(oracles.spectral_norm(layer, shape))


def slope_at_impulses(layer, shape):
    """The largest quotient of pairs (0, unit impulse): a lower bound, which max-pooling attains."""
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        rise = layer(units) - layer(torch.zeros_like(units))
    return rise.flatten(1).norm(dim=1).max().item()


POOLS = [{"kernel_size": k, "stride": s} for k in (1, 2, 3, (3, 2)) for s in (1, 2, 3, (1, 2))]


@pytest.mark.parametrize("options", POOLS)
def test_max_pooling_is_exact_inside_the_image(options):
    layer = nn.MaxPool2d(**options)
    assert slope_at_impulses(layer, (1, 9, 9)) == pytest.approx(layer_norm(layer, (1, 9, 9)))


@given(kernel=st.integers(1, 4), stride=st.integers(1, 4), dilation=st.integers(1, 3), pad=st.booleans(), ceil=st.booleans())
def test_max_pooling_is_below_its_bound(kernel, stride, dilation, pad, ceil):
    layer = nn.MaxPool2d(kernel, stride, kernel // 2 if pad else 0, dilation, ceil_mode=ceil)
    bound = layer_norm(layer, (1, 11, 11))
    assert slope_at_impulses(layer, (1, 11, 11)) <= bound * ROUNDING
    x, y = torch.randn(2, 30, 1, 11, 11, dtype=torch.float64)
    assert ((layer(x) - layer(y)).flatten(1).norm(dim=1) <= bound * (x - y).flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("options", POOLS)
def test_average_pooling_is_below_its_bound_and_exact_without_overlap(options):
    layer = nn.AvgPool2d(**options)
    true, bound = oracles.spectral_norm(layer, (1, 9, 9)), layer_norm(layer, (1, 9, 9))
    assert true <= bound * ROUNDING
    if options in ({"kernel_size": 2, "stride": 2}, {"kernel_size": 3, "stride": 3}, {"kernel_size": 1, "stride": 1}):
        assert true == pytest.approx(bound)


ACTIVATIONS = [nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Softplus(3.0), nn.Hardtanh(-2, 2)]
ACTIVATIONS += [nn.LeakyReLU(0.1), nn.LeakyReLU(-3.0), nn.ELU(), nn.ELU(2.5), nn.ELU(0.2), nn.Identity(), nn.Dropout()]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activations_have_their_steepest_slope(layer):
    x = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    slope = (layer.eval()(x).diff() / x.diff()).abs().max().item()
    assert slope <= layer_norm(layer, (1,)) * ROUNDING
    assert slope == pytest.approx(layer_norm(layer, (1,)), rel=1e-2)


def test_the_product_runs_through_nested_chains_with_the_shapes_of_each_layer():
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(72, 2)
    )
    expected = layer_norm(model[1][0], (1, 8, 8)) * layer_norm(model[3], (72,))
    assert product_of_norms(model, (64,)) == pytest.approx(expected)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "softplus", "elu"])
def test_the_papers_networks_have_a_product(activation):
    for model in (mlp((1, 8, 8), 3, activation=activation), cnn((1, 8, 8), 3, hidden=(2, 3, 4), activation=activation)):
        assert 0 < product_of_norms(model, (1, 8, 8)) < math.inf


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.LocalResponseNorm(2), "operation with a known Lipschitz constant"),
        (nn.BatchNorm2d(1, track_running_stats=False), "running statistics"),
        (nn.InstanceNorm2d(1, track_running_stats=True), "running statistics"),
        (nn.Threshold(1.0, 0.0), "Threshold"),
        (nn.MaxPool2d(2, return_indices=True), "return_indices=False"),
        (nn.Softplus(threshold=1), "threshold >= 20"),
    ],
)
def test_refuses_by_name_what_has_no_rule(layer, match):
    with pytest.raises(UnsupportedModuleError, match=match):
        product_of_norms(nn.Sequential(layer), (1, 4, 4))


def test_layers_derived_from_known_ones_are_what_they_compute():
    layer, chain = Doubled(3, 3), Residual(nn.Linear(3, 3), nn.ReLU())
    assert product_of_norms(layer, (3,)) == pytest.approx(oracles.spectral_norm(layer, (3,)))
    assert product_of_norms(chain, (3,)) == pytest.approx(1 + layer_norm(chain[0], (3,)))


def test_a_rule_of_ones_own_can_be_registered():
    class Tripled(nn.Linear):
        def forward(self, x):
            return 3 * super().forward(x)

    layer_norm.register(Tripled)(lambda module, shape: 3 * layer_norm.dispatch(nn.Linear)(module, shape))
    layer = Tripled(3, 2)
    assert product_of_norms(layer, (3,)) == pytest.approx(oracles.spectral_norm(layer, (3,)))


CONVOLUTIONS = [
    (nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (2, 11)),
    (nn.Conv1d(4, 4, 3, groups=2, padding="same"), (4, 7)),
    (nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0)), (2, 7, 9)),
    (nn.Conv3d(2, 2, 2, stride=2, padding=1), (2, 3, 4, 3)),
    (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1), (2, 6)),
    (nn.ConvTranspose2d(4, 2, 3, stride=2, dilation=2, groups=2), (4, 4, 3)),
    (nn.ConvTranspose2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 1)), (2, 4, 5)),
    (nn.ConvTranspose3d(1, 2, 2, stride=2), (1, 3, 2, 2)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=str)
def test_convolutions_of_every_kind_are_below_their_bound_and_near(layer, shape):
    true, bound = oracles.spectral_norm(layer, shape), layer_norm(layer, shape)
    assert true <= bound * ROUNDING
    assert bound <= 1.5 * true
    dense = oracles.matrix(layer, shape)
    assert np.abs(dense).sum(1).max() == pytest.approx(infinity_norm(layer, shape))


@given(seed=st.integers(0, 10_000), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2))
def test_transposed_convolutions_are_below_their_bound(seed, stride, padding, dilation):
    torch.manual_seed(seed)
    layer = nn.ConvTranspose1d(4, 2, 3, stride, padding, 0, seed % 2 + 1, dilation=dilation)
    assert oracles.spectral_norm(layer, (4, 5)) <= layer_norm(layer, (4, 5)) * ROUNDING


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.SELU(), nn.CELU(0.5), nn.Softsign(), nn.LogSigmoid()])
@pytest.mark.parametrize("ends", [(-9.0, 9.0), (-1.0, 0.5), (0.3, 2.0), (-3.5, -2.0)])
def test_slope_intervals_hold_and_are_attained(act, ends):
    low, high = slope_interval(act, *(torch.tensor(end) for end in ends))
    x = torch.linspace(*ends, 20_001, dtype=torch.float64)
    slope = act(x).diff() / x.diff()
    assert low - 1e-9 <= slope.min() <= low + 2e-3
    assert high - 2e-3 <= slope.max() <= high + 1e-9
    wide = slope_interval(act)
    assert wide[0] <= low
    assert high <= wide[1]
