"""The certificate in training: a bound at every step, learnt alongside, never lost, resumed as it was."""

import pytest
import torch
from torch import nn

from cheaplip import LipschitzRegularizer, perturbed_pairs
from cheaplip.bounds.graph import trace
from cheaplip.bounds.multipliers.bound import certified
from cheaplip.bounds.multipliers.chain import make_chain
from cheaplip.bounds.upper import upper_bound
from cheaplip.errors import InputError, UnsupportedModuleError
from cheaplip.models import mlp
from cheaplip.regularization.certificate import CertificateRegularizer, with_certificate


def network(seed=0, hidden=(12, 10), activation="relu"):
    torch.manual_seed(seed)
    return mlp((6,), 3, hidden=hidden, activation=activation)


@pytest.mark.parametrize("activation", ["relu", "softplus", "sigmoid"])
def test_the_first_bound_is_about_the_searched_one(activation):
    model = network(activation=activation)
    bound = CertificateRegularizer(model, (6,)).bound().detach()
    # the slopes that activations have anywhere: in training, weights and regions change
    with torch.no_grad():
        best = certified(make_chain(trace(model, (6,)).last_chain.layers, local=False)).value
    assert best * (1 - 1e-6) <= float(bound) <= 1.05 * best
    assert upper_bound(model, (6,)).value <= best * (1 + 1e-3)


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.one(x) + self.two(x)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 3)

    def forward(self, x):
        return self.one(x) ** 2


class Residual(nn.Module):
    """A skip round convolutions with a normalisation, and a parametrised layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(2), nn.utils.parametrizations.weight_norm(nn.Linear(64, 3))

    def forward(self, x):
        return self.head((x + self.second(torch.relu(self.norm(self.first(x))))).flatten(1))


def convolutional():
    """One convolution as a matrix, one by its symbols; strides, padding, pooling, a normalisation."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 8), nn.Softplus(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(("make", "shape"), [(network, (6,)), (convolutional, (1, 28, 28))])
def test_gradients_go_to_the_weights(make, shape, monkeypatch):
    monkeypatch.setattr("cheaplip.bounds.multipliers.chain.DENSE_ROWS", 300)
    model = make().double()
    certificate = CertificateRegularizer(model, shape)
    bound = certificate.bound()
    weights = [p for p in model.parameters() if p.dim() > 1]
    for weight, gradient in zip(weights, torch.autograd.grad(bound, weights), strict=True):
        index = torch.unravel_index(gradient.abs().argmax(), gradient.shape)
        with torch.no_grad():
            ends = []
            for change in (1e-6, -2e-6):
                weight[index] += change
                ends.append(float(certificate.bound()))
            weight[index] += 1e-6
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(gradient[index]), rel=1e-3)


@pytest.mark.parametrize(("make", "shape"), [(Residual, (1, 8, 8)), (Sum, (6,))])
def test_branches_get_the_product_of_norms_that_follows_the_weights(make, shape):
    torch.manual_seed(0)
    model = make().eval()
    certificate = CertificateRegularizer(model, shape, interval=1)
    assert certificate.kind == "product of layer norms"
    for _ in range(20):
        certificate().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * (torch.zeros(()) if parameter.grad is None else parameter.grad)
        model.zero_grad()
        certificate.step()
    # in a convolution the edges of the image are left out of what is proved
    assert 1 - 1e-6 <= certificate.upper_bound() / float(certificate.bound().detach()) <= 1.25
    resumed = CertificateRegularizer(model, shape, interval=1)
    resumed.load_state_dict(certificate.state_dict())
    assert float(resumed.bound().detach()) == float(certificate.bound().detach())
    weight = model.one.weight if make is Sum else model.first.weight
    for _ in range(100):  # until the power iterations have settled
        certificate.bound()
    (gradient,) = torch.autograd.grad(certificate.bound(), weight)
    index = torch.unravel_index(gradient.abs().argmax(), gradient.shape)
    with torch.no_grad():
        weight[index] += 1e-3
        above = float(certificate.bound().detach())
        weight[index] -= 2e-3
        assert above - float(certificate.bound().detach()) == pytest.approx(2e-3 * float(gradient[index]), rel=0.05)


def test_what_a_normalisation_takes_back_has_no_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 2))
    pairs = LipschitzRegularizer(model, perturbed_pairs(torch.rand(40, 1, 8, 8), seed=0))
    first = model[0].weight
    along = []
    for beside in (None, pairs):
        certificate = CertificateRegularizer(model, (1, 8, 8), beside=beside)
        bound = certificate.bound()
        (gradient,) = torch.autograd.grad(bound, first)
        along.append(float((gradient * first.detach()).sum() / bound.detach()))
    assert abs(along[1]) < 1e-4 < 0.5 < along[0]


def test_a_huge_bound_counts_as_its_logarithm():
    model = network()
    regularizer = LipschitzRegularizer(model, perturbed_pairs(torch.randn(20, 6), seed=0), interval=1)
    certificate = CertificateRegularizer(model, (6,), interval=1, beside=regularizer)
    regularizer()
    plain, bound = float(certificate().detach()), float(certificate.bound().detach())
    assert plain == pytest.approx(bound**2, rel=1e-5)
    regularizer.latest *= 1e-6
    assert float(certificate().detach()) < 0.01 * plain


def test_large_layers_get_the_product_of_norms():
    model = nn.Sequential(nn.Linear(2, 600), nn.ReLU(), nn.Flatten(), nn.Linear(1800, 2))  # of two-dimensional samples
    assert CertificateRegularizer(model, (3, 2)).kind == "product of layer norms"
    assert CertificateRegularizer(network(), (6,)).kind == "multipliers"


def test_multipliers_follow_weights_that_move(monkeypatch):
    monkeypatch.setattr("cheaplip.regularization.certificate.LEARNING_RATE", 0.03)
    model = network()
    certificate = CertificateRegularizer(model, (6,))
    certificate.bound()
    with torch.no_grad():
        for layer in (model[1], model[3], model[5]):
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
    left_behind = float(certificate.bound().detach())
    for _ in range(300):
        certificate.bound().backward()
        certificate.step()
    best = upper_bound(model, (6,)).value
    assert best * (1 - 1e-6) <= float(certificate.bound().detach()) <= min(1.02 * best, left_behind)


@pytest.mark.parametrize("factor", [3.0, 1e3, 1e-3])
def test_no_jump_of_the_weights_loses_the_certificate(factor):
    model = network(hidden=(12, 10, 8))
    certificate = CertificateRegularizer(model, (6,))
    certificate.bound()
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(factor)
    bound = certificate.bound()
    assert bound.isfinite()
    assert float(bound.detach()) >= upper_bound(model, (6,)).value * (1 - 1e-6)
    bound.backward()
    certificate.step()
    assert certificate.bound().isfinite()


def test_a_gradient_that_is_not_finite_moves_nothing():
    model = network()
    certificate = CertificateRegularizer(model, (6,))
    (certificate.bound() * torch.inf).backward()
    before = [log.clone() for log in certificate.state_dict()["logs"]]
    certificate.step()
    assert all(torch.equal(*pair) for pair in zip(before, certificate.state_dict()["logs"], strict=True))


def test_the_penalty_is_that_of_the_pairs_and_a_share_of_the_square():
    model = network()
    pairs = perturbed_pairs(torch.randn(20, 6), seed=0)
    plain, both = (with_certificate(LipschitzRegularizer(model, pairs, interval=4, hold=False), w) for w in (0.0, 0.3))
    extra = float((both() - plain()).detach())
    assert extra == pytest.approx(4 * 0.3 * float(CertificateRegularizer(model, (6,)).bound().square().detach()), rel=1e-4)
    for regularizer in (plain, both):
        regularizer.step()
    assert float(both()) == float(plain()) == 0.0  # between two penalties


def test_refusals():
    pairs = perturbed_pairs(torch.randn(20, 1, 8, 8), seed=0)
    with pytest.raises(UnsupportedModuleError, match="LayerNorm"):
        CertificateRegularizer(nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (6,))
    with pytest.raises(UnsupportedModuleError, match="without a constant"):
        CertificateRegularizer(Squared(), (6,))
    for share in (-1.0, float("nan")):
        with pytest.raises(InputError, match="certify"):
            with_certificate(LipschitzRegularizer(mlp((1, 8, 8), 3), pairs), share)
    with pytest.raises(InputError, match="an nn"):
        with_certificate(LipschitzRegularizer(lambda x: x, pairs), 0.1)


def test_a_certificate_that_is_not_finite_is_left_out_and_counted():
    model = network()
    certificate = CertificateRegularizer(model, (6,), interval=1)
    assert certificate().requires_grad
    with torch.no_grad():
        model[1].weight.mul_(1e30)
    assert certificate().item() == 0  # its square is too large for float32
    assert certificate.skipped == 1


@pytest.mark.parametrize(("power", "allowed"), [(1, 0.0), (2, 0.0), (1, 0.5), (2, 0.5), (1, 100.0)])
def test_the_penalty_is_what_exceeds_the_allowed_bound(power, allowed):
    model = mlp((6,), 3, hidden=(8,))
    certificate = CertificateRegularizer(model, (6,), interval=1, power=power, allowed=allowed)
    bound = float(certificate.bound().detach())
    assert float(certificate().detach()) == pytest.approx(max(bound - allowed, 0) ** power, rel=1e-4)
    assert certificate.constant() == pytest.approx(bound)
