"""Every operation people use: no pair of inputs is steeper than its bound, and where the constant is known it is met."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from cheaplip import Ball
from cheaplip.bounds import subdivision
from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.errors import InputError, UnsupportedModuleError
from support.searches import short_ascents, short_searches


class Net(nn.Module):
    """A function of x, with layers and constants of its own."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.register_buffer("constant", torch.linspace(-1, 2, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        return self.function(self, x)


def in_place(net, x):
    y = net.layer(x)
    y += x
    y.relu_()
    return y


def group_sort(net, x):
    """As deel-torchlip has it."""
    pairs = net.layer(x).view(x.shape[0], 4, 2)
    return torch.cat([pairs.min(2, keepdim=True)[0], pairs.max(2, keepdim=True)[0]], 2).view(x.shape[0], -1)


def patches(net, x):
    """The first layers of a vision transformer."""
    b, c, h, w = x.shape
    assert c == 2
    tokens = net.layer(x).flatten(2).transpose(1, 2)
    return torch.cat([net.token.expand(b, -1, -1), tokens], dim=1)[:, 0 : h * w].mean(1)


EXACT = {  # a model, the shape of an input, its constant
    "windows with padding": (nn.AvgPool2d(2, 2, 1), (1, 4, 4), 1 / 2),
    "global mean": (Net(lambda net, x: x.mean((2, 3))), (2, 3, 3), 1 / 3),
    "adaptive pooling, 1-D": (nn.AdaptiveAvgPool1d(2), (2, 8), 1 / 2),
    "adaptive pooling, 3-D": (nn.AdaptiveAvgPool3d(1), (2, 2, 3, 4), 24**-0.5),
    "adaptive max-pooling": (nn.AdaptiveMaxPool2d(2), (2, 4, 4), 1),
    "functional pooling": (Net(lambda net, x: functional.adaptive_avg_pool2d(x, 1).flatten(1)), (2, 4, 4), 1 / 4),
    "max-pooling, 1-D": (Net(lambda net, x: functional.max_pool1d(x, 2)), (2, 8), 1),
    "nearest": (nn.Upsample(scale_factor=2), (2, 4, 4), 2),
    "bilinear": (Net(lambda net, x: functional.interpolate(x, scale_factor=2, mode="bilinear")), (2, 4, 4), 2),
    "pixel shuffle": (nn.PixelShuffle(2), (4, 3, 3), 1),
    "channel shuffle": (nn.ChannelShuffle(2), (4, 3, 3), 1),
    "zero padding": (Net(lambda net, x: functional.pad(x, (1, 2), value=3.0)), (2, 5), 1),
    "reflection": (nn.ReflectionPad2d(1), (2, 4, 4), 2),
    "replication": (nn.ReplicationPad1d(1), (2, 4), 2**0.5),
    "circular": (nn.CircularPad2d(1), (2, 4, 4), 2),
    "log-softmax": (nn.LogSoftmax(-1), (4,), 2),
    "logsumexp": (Net(lambda net, x: x.logsumexp(1)), (4,), 1),
    "sort": (Net(lambda net, x: x.sort(1, descending=True).values), (5,), 1),
    "largest": (Net(lambda net, x: x.amax(-1)), (3, 4), 1),
    "hard tanh": (nn.Hardtanh(-2, 3), (4,), 1),
    "soft shrink": (nn.Softshrink(), (4,), 1),
    "clamp": (Net(lambda net, x: x.clamp(min=0)), (4,), 1),
    "threshold": (nn.Threshold(0.0, 0.0), (4,), 1),
    "rectified by chance": (nn.RReLU(), (4,), 1),
    "sine": (Net(lambda net, x: x.sin()), (4,), 1),
    "axes": (Net(lambda net, x: x.permute(0, 2, 1).unsqueeze(1).squeeze(1).reshape(len(x), -1)), (3, 4), 1),
    "pieces": (Net(lambda net, x: torch.stack([x.chunk(2, 1)[0] * 2, x.split(2, 1)[1]], 1)), (4,), 2),
    "slices": (Net(lambda net, x: x[:, 1:3] - x[:, [0, 1]]), (3,), 3**0.5),
    "sum": (Net(lambda net, x: x.sum(1)), (4, 3), 2),
    "buffer": (Net(lambda net, x: net.constant * x + net.constant), (8,), 2),
    "divided by a parameter": (Net(lambda net, x: x / (2 + 0 * net.token[0])), (3, 8), 1 / 2),
    "masked": (Net(lambda net, x: x.masked_fill(net.constant < 0, 7.0)), (8,), 1),
    "where": (Net(lambda net, x: torch.where(net.constant < 0, 2 * x, net.constant)), (8,), 2),
    "broadcast": (Net(lambda net, x: x[:, :1] + x), (2,), (3 + 5**0.5) ** 0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_constants_that_are_known(name):
    model, shape, constant = EXACT[name]
    bound = upper_bound(model, shape).value
    assert bound == pytest.approx(constant, rel=1e-6)
    with short_ascents():
        assert bound >= lower_bound(model, torch.randn(5, *shape)).value * (1 - 1e-6)


@pytest.mark.parametrize("options", [{"size": (7, 3)}, {"scale_factor": 1.5}, {"size": (2, 9), "antialias": True}])
def test_bicubic_interpolation_has_the_norm_of_its_matrix(options):
    model = Net(lambda net, x: functional.interpolate(x, mode="bicubic", **options))
    images = torch.eye(20).double().reshape(20, 1, 4, 5)
    exact = torch.linalg.matrix_norm(model(images).flatten(1), 2).item()
    assert upper_bound(model, (3, 4, 5)).value == pytest.approx(exact, rel=1e-9)


torch.manual_seed(0)  # the networks are made on import
LAYERS = {
    "bicubic": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2, mode="bicubic"), nn.ReLU()), (1, 4, 4)),
    "circular convolution": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
    "reflecting convolution": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "replicating convolution": (nn.Conv1d(2, 3, 3, 2, padding=2, padding_mode="replicate"), (2, 9)),
    "functional convolution": (
        Net(lambda net, x: functional.conv2d(x, net.layer.weight, net.layer.bias, 1, 1), layer=nn.Conv2d(2, 3, 3)),
        (2, 5, 5),
    ),
    "convolution, 3-D": (nn.Conv3d(2, 2, 3, padding=1), (2, 3, 3, 3)),
    "softmax": (nn.Sequential(nn.Linear(4, 5), nn.Softmax(1)), (4,)),
    "softmin over channels": (Net(lambda net, x: functional.softmin(3 * x, 1)), (3, 2, 2)),
    "mish": (nn.Sequential(nn.Linear(4, 6), nn.Mish()), (4,)),
    "tanh shrink": (nn.Sequential(nn.Linear(4, 6), nn.Tanhshrink()), (4,)),
    "gelu by tanh": (nn.Sequential(nn.Linear(4, 6), nn.GELU("tanh")), (4,)),
    "group sort": (Net(group_sort, layer=nn.Linear(4, 8)), (4,)),
    "maximum": (
        Net(lambda net, x: torch.maximum(net.layer(x), x) - torch.minimum(x, net.constant[:4]), layer=nn.Linear(4, 4)),
        (4,),
    ),
    "shared": (Net(lambda net, x: net.layer(net.layer(x).relu()).relu(), layer=nn.Linear(4, 4)), (4,)),
    "weight norm": (parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), (2, 4, 4)),
    "spectral norm": (nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.ReLU()), (4,)),
    "orthogonal": (parametrizations.orthogonal(nn.Linear(4, 4)), (4,)),
    "spectral norm by a hook": (nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.ReLU()), (4,)),
    "in place": (Net(in_place, layer=nn.Linear(4, 4)), (4,)),
    "patches": (Net(patches, layer=nn.Conv2d(2, 8, 2, 2)), (2, 4, 4)),
    "recurrent": (Net(lambda net, x: net.layer(x)[0][:, -1], layer=nn.RNN(2, 3, 2, batch_first=True)), (3, 2)),
    "gated recurrent": (Net(lambda net, x: net.layer(x)[1][-1], layer=nn.GRU(2, 3, batch_first=True)), (2, 2)),
    "long memory": (
        Net(lambda net, x: net.layer(x)[1][0][-1], layer=nn.LSTM(2, 2, batch_first=True, bidirectional=True)),
        (2, 2),
    ),
    "projected memory": (
        Net(lambda net, x: net.layer(x)[0][:, -1], layer=nn.LSTM(2, 4, batch_first=True, proj_size=2)),
        (2, 2),
    ),
    "einsum": (
        Net(lambda net, x: torch.einsum("oc,bcl->bol", net.constant.view(4, 2), net.layer(x)), layer=nn.Linear(3, 3)),
        (2, 3),
    ),
    "unit vectors": (Net(lambda net, x: functional.normalize(net.layer(x) + 5), layer=nn.Linear(4, 6)), (4,)),
    "layer norm": (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), (4,)),
    "group norm": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), (2, 5, 5)),
    "root mean square": (nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8)), (4,)),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    "normalised before attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (3, 8)),
    "functional layer norm": (Net(lambda net, x: functional.layer_norm(x, (8,), net.constant)), (3, 8)),
}
PRODUCTS = {
    "gates": (nn.Sequential(nn.Linear(4, 6), nn.GLU(1)), (4,)),
    "attention": (
        Net(lambda net, x: net.layer(x, x, x, need_weights=False)[0], layer=nn.MultiheadAttention(8, 2, batch_first=True)),
        (3, 8),
    ),
    "causal attention": (Net(lambda net, x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)), (3, 8)),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 8)),
    "squeeze and excitation": (
        Net(lambda net, x: x * net.layer(x.mean((2, 3))).sigmoid()[:, :, None, None], layer=nn.Linear(3, 3)),
        (3, 2, 2),
    ),
    "square": (Net(lambda net, x: x**2), (4,)),
    "cube": (Net(lambda net, x: x**3 - x * x), (4,)),
}


def domains(shape):
    return [(-1.0, 1.0), Ball(0.5 * torch.randn(*shape), 0.1)]


def check_on(model, shape, domain):
    """The bound is finite, and not below what an ascent finds."""
    x = torch.randn(20, *shape)
    with pytest.MonkeyPatch.context() as patch, short_searches(2), short_ascents(2):
        patch.setattr(subdivision, "CELLS", 50)
        bound = upper_bound(model.eval(), shape, domain=domain).value
        assert lower_bound(model, x, domain=domain).value <= bound * (1 + 1e-6) < math.inf
    return bound


LONG = {"gated recurrent", "projected memory"}
"""Cousins of other layers here, which take seconds."""


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in LAYERS])
def test_no_pair_is_steeper(name):
    model, shape = LAYERS[name]
    everywhere = check_on(model, shape, None)
    for domain in domains(shape):
        assert check_on(model, shape, domain) <= everywhere * 1.05


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_have_a_bound_on_a_domain_and_are_refused_without(name):
    model, shape = PRODUCTS[name]
    with pytest.raises(UnsupportedModuleError, match=r"products of values at .*Give domain="):
        upper_bound(model, shape)
    for domain in domains(shape):
        check_on(model, shape, domain)


def test_sorting_by_twos_is_seen_through():
    """Relu, |x| and sorted pairs of orthogonal layers: products of norms of 1, and no more by multipliers."""
    layers = [parametrizations.orthogonal(nn.Linear(8, 8)) for _ in range(3)]
    model = Net(lambda net, x: group_sort(net, group_sort(net, x)), layer=nn.Sequential(*layers))
    assert upper_bound(model, (8,)).value == pytest.approx(1, rel=1e-3)
    assert product_of_norms(model, (8,)) == pytest.approx(1, rel=1e-5)


def later_in_place(net, x):
    y = net.layer(x)
    z = y.view(-1, 2, 2)
    y.relu_()
    return z.flatten(1)


class Fivefold(torch.autograd.Function):
    """What is inside of it is seen."""

    @staticmethod
    def forward(ctx, x):
        return 5 * x


def test_functions_with_a_gradient_of_their_own_are_what_they_compute():
    assert upper_bound(Net(lambda net, x: Fivefold.apply(x)), (4,)).value == pytest.approx(5)


REFUSED = {
    "a number is read": (lambda net, x: x if bool(x.isfinite().all()) else -x, "isfinite"),
    "a mask of values": (lambda net, x: x * (x > 0), "gt"),
    "a view that changes": (later_in_place, "changed in place"),
    "unknown origin": (lambda net, x: x + torch.from_numpy(np.ones(4, dtype=np.float32)), "unknown origin"),
    "samples in turn": (lambda net, x: x + torch.arange(len(x))[:, None], "differs between samples"),
    "flipped samples": (lambda net, x: x.flip(0), "mixes or moves"),
    "sorted samples": (lambda net, x: x.sort(0).values, "stay apart"),
    "softmax over samples": (lambda net, x: x.softmax(0), "axis of a sample"),
    "chosen for each sample": (lambda net, x: x[torch.arange(len(x)), [0, 1]], "index of each sample"),
    "gathered for each sample": (lambda net, x: x.gather(1, torch.arange(len(x))[:, None]), "index of each sample"),
    "samples as channels": (lambda net, x: functional.max_pool1d(x, 3, 1), "axis of channels"),
    "channels of samples": (nn.Conv1d(2, 2, 3), "axis of channels"),
    "einsum over samples": (lambda net, x: torch.einsum("bc,bd->cd", x, net.constant.view(2, 4)), "stay apart"),
    "einsum of two values": (lambda net, x: torch.einsum("bc,bc->b", x, x), "one value and constants"),
    "unit vectors of samples": (lambda net, x: functional.normalize(x, dim=0), "one axis of a sample"),
    "exponential": (lambda net, x: x.exp(), "exp"),
    "a jump": (lambda net, x: functional.hardshrink(x), "hardshrink"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_from_one_run_is_refused(name):
    function, match = REFUSED[name]
    model = function if isinstance(function, nn.Module) else Net(function, layer=nn.Linear(4, 4))
    with pytest.raises(InputError, match=match):
        upper_bound(model, (4,))


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda net, x: net.layer(x.transpose(0, 1))[0][-1], "mixes or moves.*with batch_first=True"),
        (lambda net, x: net.layer(x)[0].flatten(1), "second axis.*with batch_first=True"),
        (lambda net, x: net.first(x, x.new_zeros(1, len(x), 3))[0], "Leave the states away"),
        (lambda net, x: net.attention(x, x, x)[0], "second axis.*with batch_first=True"),
    ],
)
def test_sequences_in_another_layout_are_told_what_to_do(function, match):
    layers = {"layer": nn.GRU(4, 3), "first": nn.RNN(4, 3, batch_first=True), "attention": nn.MultiheadAttention(4, 2)}
    with pytest.raises(UnsupportedModuleError, match=match):
        upper_bound(Net(function, **layers), (5, 4))
