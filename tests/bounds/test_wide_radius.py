"""Local radii of wide networks: bends near a point, the certificate in factors, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import certified_radius, lipschitz_bracket
from cheaplip.bounds import radius as radii
from cheaplip.bounds.graph import trace
from cheaplip.bounds.wide import certified_distances, steps_of
from cheaplip.bounds.wide.bends import bend, rivals_of
from cheaplip.bounds.wide.certificate import Certificate
from cheaplip.bounds.wide.steps import Added, Bent, Mapped, windows
from cheaplip.errors import UnsupportedModuleError
from cheaplip.models import cnn
from cheaplip.robustness.attacks import strong_attack
from support.searches import short_ascents, short_searches


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(27, 3)

    def forward(self, x):
        y = self.first(x).relu()
        y = nn.functional.max_pool2d((y + self.inner(y)).relu(), 2)
        return self.last(y.flatten(1))


def normalised():
    front = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.AvgPool2d(1)]
    return nn.Sequential(*front, nn.Flatten(), nn.Linear(4, 5), nn.LeakyReLU(-1.0), nn.Linear(5, 3))


def pooled_first():
    front = [nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(1, 4, 2), nn.MaxPool2d(2, 1), nn.Softplus(), nn.Conv2d(4, 3, 1)]
    return nn.Sequential(*front, nn.GELU(), nn.Flatten(), nn.Linear(3, 3))


def margins_of(model, x):
    with torch.no_grad():
        logits = model.double()(x.double())
    return (logits.amax(1, keepdim=True) - logits).scatter(1, logits.argmax(1)[:, None], math.inf)


def distances(model, x):
    margins = margins_of(model, x)
    steps = steps_of(trace(model, tuple(x.shape[1:])))
    return certified_distances(steps, x, torch.full_like(margins, 1e9), margins)


@pytest.mark.parametrize("build", [Skipping, normalised, pooled_first])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_no_functional_moves_further_than_is_proved(build, scale):
    """On the sphere and inside, random directions and gradients; a background of zeros has windows of equal entries."""
    torch.manual_seed(3)
    model, x = build().eval().double(), torch.randn(2, 1, 6, 6).double()
    x[1, :, :3] = 0
    for point in x:
        steps = steps_of(trace(model, (1, 6, 6)))
        rows = torch.cat([torch.eye(3), torch.eye(3).roll(1, 0) - torch.eye(3)]).double()
        with torch.no_grad():
            lengths = scale * Certificate(steps, steps.at(point), scale).lengths(rows)
        moved = torch.randn(3000, 1, 6, 6).double()
        moved = moved / moved.flatten(1).norm(dim=1)[:, None, None, None] * scale * torch.rand(3000, 1, 1, 1).double().sqrt()
        gradients = torch.tensordot(rows, torch.func.jacrev(model)(point[None])[0, :, 0], 1)
        along = gradients / gradients.flatten(1).norm(dim=1)[:, None, None, None] * scale
        for moves in (moved, along, -along):
            changes = (model(point + moves) - model(point[None])) @ rows.T
            assert (changes.abs() <= lengths).all()


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), reach=st.sampled_from([0.1, 1.0, 3.0]), act=st.sampled_from([None, nn.ReLU(), nn.Softplus()]))
def test_the_error_of_a_bend_is_bounded(seed, reach, act):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(30, generator=generator).double().round(decimals=1)
    windows = torch.arange(30).reshape(6, 5)
    windows[0, 3:] = -1
    step = Bent((0,), 1, act, windows, (6,), 1.0)
    rivals = rivals_of(step, centre, torch.full((30,), reach).double())
    made = bend(step, rivals, centre, torch.full((30,), reach).double(), torch.full((6, 5), 2 * reach).double())

    def bent(z):
        largest = torch.where(windows < 0, -math.inf, z[:, windows]).amax(2)
        return largest if act is None else act(largest)

    d = reach * (2 * torch.rand(2000, 30, generator=generator).double() - 1)
    e = (made.mean * d[:, windows]).sum(2)
    most = (made.own * e).square() + (made.sizes * (d[:, windows] - e[:, :, None])).square().sum(2)
    error = bent(centre + d) - bent(centre[None]) - made.forward(d)
    assert (error.abs() <= most.sqrt() + 1e-8).all()
    rows = torch.randn(4, 6, generator=generator).double()
    torch.testing.assert_close(rows @ made.forward(d).T, made.backward(rows, 30) @ d.T)


@pytest.mark.parametrize("options", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
                                     {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (2, 1)}])  # fmt: skip
def test_windows_are_those_of_torch(options):
    pool, x = nn.MaxPool2d(**options), torch.randn(1, 2, 7, 8)
    expected = pool(x)
    places = windows(pool, (2, 7, 8), tuple(expected.shape[1:]))
    largest = torch.where(places < 0, -math.inf, x.flatten()[places]).amax(1)
    assert largest.equal(expected.flatten())


def test_a_linear_network_has_its_exact_radius():
    model, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)), torch.randn(4, 1, 6, 6)
    margins = margins_of(model, x)
    jacobian = torch.func.jacrev(model)(x[:1].double())[0, :, 0].flatten(1)
    normals = (jacobian[:, None] - jacobian).norm(dim=2)[margins.argmax(1)]
    torch.testing.assert_close(distances(model, x), (margins / normals).amin(1), rtol=1e-6, atol=0)


def written_out(certificate, steps, rows):
    """The same linear maps, errors and multipliers in one dense matrix K, and rows K^{-1} rows^T."""
    bends, metrics = certificate._bends, certificate._metrics
    total = len(certificate._values[0]) + sum(len(metric.support) for metric in metrics.values())
    k, used = torch.eye(total).double(), len(certificate._values[0])
    maps = {0: torch.eye(used, total).double().T}  # (coordinates, entries)
    for step in steps.steps:
        given = maps[step.inputs[0]]
        if isinstance(step, Mapped):
            maps[step.out] = step.forward(given.reshape(-1, *step.shape)).flatten(1)
        elif isinstance(step, Added):
            maps[step.out] = sum(maps[i] for i in step.inputs)
        else:
            made, metric = bends[step.out], metrics.get(step.out)
            maps[step.out] = made.forward(given)
            if metric is None:
                continue
            for window, noise in zip(metric.support.tolist(), metric.noise.tolist(), strict=True):
                entries = given[:, step.windows[window]]
                mean = entries @ made.mean[window]
                parts = torch.stack([made.own[window] * mean, *(made.sizes[window] * (entries - mean[:, None])).T]) / noise
                k -= parts.T @ parts
                maps[step.out][used, window] += noise
                used += 1
    linear = rows @ maps[steps.place].T
    return ((linear @ torch.linalg.inv(k)) * linear).sum(1).sqrt()


@pytest.mark.parametrize("build", [normalised, pooled_first, Skipping])
@torch.no_grad()
def test_the_certificate_is_that_of_the_dense_formula(build):
    torch.manual_seed(0)
    model, point, rows = build().eval().double(), torch.randn(1, 6, 6).double(), torch.eye(3).double()
    steps = steps_of(trace(model, (1, 6, 6)))
    certificate = Certificate(steps, steps.at(point), 0.3)
    found, expected = certificate.lengths(rows), written_out(certificate, steps, rows)
    assert (found >= expected).all()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


def test_one_hidden_layer_is_certified_near_to_where_its_class_changes():
    """The distance to the boundary by brute force, in two dimensions."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).double(), torch.randn(5, 2).double()
    turns = torch.linspace(0, 2 * math.pi, 181)[:-1].double()
    around = torch.stack([turns.cos(), turns.sin()], 1)
    lengths = torch.linspace(0, 20, 1001).double()
    radius, labels = distances(model, x), model(x).argmax(1)
    for point, label, certified in zip(x, labels, radius.tolist(), strict=True):
        changed = model(point + lengths[:, None, None] * around).argmax(2) != label
        boundary = lengths[changed.any(1)].min() if changed.any() else math.inf
        assert certified <= boundary
        assert certified > 0.5 * min(boundary, 20.0)


def test_local_radii_of_a_wide_network_stand_against_the_strong_attack(monkeypatch):
    model, x = cnn((1, 8, 8), 3, hidden=(4, 6, 12)).eval(), 2 * torch.randn(2, 1, 8, 8)
    monkeypatch.setattr(radii, "MOST", 20)
    with short_searches(), short_ascents():
        bracket = lipschitz_bracket(model, x, steps=1)
    radius, labels = certified_radius(model, x, bracket, local=True), model(x).argmax(1)
    shared = certified_radius(model, x, bracket)
    assert (radius >= shared).all()
    assert radius.mean() > 2 * shared.mean()
    for i, eps in enumerate((radius * (1 - 1e-6)).tolist()):
        assert not strong_attack(model, x[i : i + 1], labels[i : i + 1], eps=eps, step=eps / 4)[1].any()
    wrong = labels.clone()
    wrong[0] = (labels[0] + 1) % 3
    assert certified_radius(model, x[:1], bracket, labels=wrong[:1], local=True).item() == 0


@pytest.mark.parametrize(
    ("layers", "got"),
    [([nn.Softmax(1)], "Softmax"), ([nn.Unflatten(1, (1, 4)), nn.AdaptiveMaxPool1d(4), nn.Flatten()], "AdaptiveMaxPool1d")],
)
def test_refuses_wide_networks_of_other_layers(monkeypatch, layers, got):
    model = nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))
    bracket = lipschitz_bracket(model, torch.zeros(1, 3), steps=1, budget=0.01)
    monkeypatch.setattr(radii, "MOST", 3)
    with pytest.raises(UnsupportedModuleError, match=rf"no AdaptiveMaxPool, concatenation.*at most 3 values .*; got {got}"):
        certified_radius(model, torch.zeros(1, 3), bracket, local=True)


def test_refuses_too_large_networks(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2))
    bracket = lipschitz_bracket(model, torch.zeros(1, 3), steps=1, budget=0.01)
    monkeypatch.setattr(radii, "MOST", 3)
    monkeypatch.setattr(radii, "ENTRIES", 11)
    model[1] = nn.Sequential(nn.ReLU(), nn.Tanh())
    with pytest.raises(UnsupportedModuleError, match="at most 11 for local radii; got 3 inputs and 4 values"):
        certified_radius(model, torch.zeros(1, 3), bracket, local=True)
