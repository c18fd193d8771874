"""Attacks against loops, foolbox and closed forms, and inside their ball and box."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from cheaplip.norms import sample_norm
from cheaplip.robustness.attacks import classified, gaussian_noise, normalized_pgd, random_start, signed_pgd, strong_attack
from support import oracles

SEEDS = st.integers(0, 10_000)
BOXES = st.sampled_from([None, (0.0, 1.0)])


def classifier(seed=0, inputs=6, gain=3.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    with torch.no_grad():
        model[1].weight.mul_(gain)
        model[3].weight.mul_(gain)
    return model.eval()


def samples(seed, shape=(2, 3), n=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (n,), generator=generator)


@given(seed=SEEDS, eps=st.floats(0.05, 2), box=BOXES)
def test_equation_14_equals_the_loop(seed, eps, box):
    model, (x, y) = classifier(seed), samples(seed)
    actual = signed_pgd(model, x, y, eps=eps, step=0.25, iterations=5, domain=box)
    torch.testing.assert_close(actual, oracles.equation_14(model, x, y, eps, 0.25, 5, box))


@given(seed=SEEDS, eps=st.floats(0.05, 2), box=BOXES)
def test_normalized_pgd_equals_the_loop(seed, eps, box):
    model, (x, _) = classifier(seed), samples(seed)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4  # one is wrong from the start
    actual, fooled = normalized_pgd(model, x, y, eps=eps, step=eps / 4, iterations=6, domain=box)
    expected, expected_fooled = oracles.normalized_pgd(model, x, y, eps, eps / 4, 6, box)
    assert torch.equal(fooled, expected_fooled)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(actual[0], x[0])


@given(seed=SEEDS, eps=st.floats(0.01, 3), box=BOXES, start=st.booleans())
def test_attacks_stay_in_the_ball_and_the_box_and_tell_the_truth(seed, eps, box, start):
    model, (x, _) = classifier(seed), samples(seed)
    y = model(x).argmax(1)
    before = x.clone()
    begin = x + torch.randn_like(x) if start else None
    strong, fooled = normalized_pgd(model, x, y, eps=eps, step=eps / 3, iterations=5, domain=box, start=begin)
    weak = signed_pgd(model, x, y, eps=eps, step=0.5, iterations=5, domain=box)
    assert torch.equal(model(strong).argmax(1) != y, fooled)
    assert torch.equal(x, before)
    for adversarial in (strong, weak):
        assert bool((sample_norm(adversarial - x) <= eps * (1 + 1e-9)).all())
        if box:
            assert adversarial.min() >= 0
            assert adversarial.max() <= 1


def foolbox_soft_margin(logits, labels):
    values = [oracles.soft_margin(z, int(label)) for z, label in zip(logits.raw, labels.raw, strict=True)]
    return type(logits)(torch.stack(values).sum())


@pytest.mark.filterwarnings("ignore")  # foolbox's own
def test_normalized_pgd_agrees_with_foolbox():
    """Its steps and projections, on our objective."""
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    x = torch.rand(60, 20)
    y = model(x).argmax(1)
    judge = foolbox.PyTorchModel(model, bounds=(0, 1))
    for eps, steps in ((0.15, 1), (0.15, 3), (0.15, 20), (0.6, 10)):
        step = eps / 4
        attack = foolbox.attacks.L2ProjectedGradientDescentAttack(abs_stepsize=step, steps=steps, random_start=False)
        attack.get_loss_fn = lambda judge, labels: lambda x: foolbox_soft_margin(judge(x), labels)
        theirs, _, success = attack(judge, x, y, epsilons=eps)
        ours, fooled = normalized_pgd(model, x, y, eps=eps, step=step, iterations=steps, domain=(0.0, 1.0))
        assert bool((~success | fooled).all())
        torch.testing.assert_close(ours[~fooled], theirs[~fooled], rtol=1e-4, atol=1e-5)
        if steps > 1:
            assert 0 < fooled.sum() < 60


@given(seed=SEEDS, gain=st.sampled_from([1e-6, 1e-3, 1e3, 1e6]))
def test_the_strong_attack_is_the_same_at_any_scale_of_the_logits(seed, gain):
    """Cross-entropy is not: on small logits it pulls towards all classes at once, and a network would look robust."""
    model, (x, _) = classifier(seed), samples(seed)
    y = model(x).argmax(1)
    expected, expected_fooled = normalized_pgd(model, x, y, eps=0.5, step=0.1, iterations=8)
    actual, fooled = normalized_pgd(lambda x: gain * model(x), x, y, eps=0.5, step=0.1, iterations=8)
    assert torch.equal(fooled, expected_fooled)
    torch.testing.assert_close(actual, expected)


@given(seed=SEEDS, eps=st.floats(0.05, 2), gain=st.sampled_from([1e-3, 1.0, 1e3, 1e6]), start=st.booleans())
def test_on_a_linear_classifier_exactly_the_samples_nearer_than_eps_are_fooled(seed, eps, gain, start):
    """The distance to the other class is margin / |w|; it does not change with the scale of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(5, 2)
    x = torch.randn(40, 5, generator=generator)
    logits = layer(x).detach()
    y = logits.argmax(1)
    distance = (logits[:, 0] - logits[:, 1]).abs() / (layer.weight[0] - layer.weight[1]).detach().norm()
    begin = random_start(x, eps, generator) if start else None
    _, fooled = normalized_pgd(lambda x: gain * layer(x), x, y, eps=eps, step=eps / 8, iterations=60, start=begin)
    clear = (distance - eps).abs() > 1e-3 * eps + 1e-5
    assert torch.equal(fooled[clear], (distance < eps)[clear])


def test_a_sure_network_is_not_safe_from_equation_14():
    """Cross-entropy is exactly flat in single precision where a network is sure; the attack must not be."""
    layer = nn.Linear(3, 2)
    x = torch.randn(20, 3)
    y = layer(x).argmax(1)
    plain, sure = (signed_pgd(lambda x, g=g: g * layer(x), x, y, eps=1.0, step=0.1, iterations=5) for g in (1, 1e5))
    torch.testing.assert_close(plain, sure)


def test_points_without_a_gradient_stay_where_they_are():
    def model(x):  # the derivative of the root at 0 is no number
        return torch.stack([x.abs().sum(1).sqrt() + 1, x.sum(1)], dim=1)

    x, y = torch.zeros(1, 3), torch.tensor([0])
    adversarial, fooled = normalized_pgd(model, x, y, iterations=3)
    assert torch.equal(adversarial, x)
    assert not fooled.any()
    assert torch.equal(signed_pgd(model, x, y, iterations=3), x)


def test_nan_is_no_classification():
    logits = torch.tensor([[math.nan, 0.0], [2.0, 1.0], [math.inf, 1.0], [1.0, 2.0]])
    assert classified(logits, torch.tensor([0, 0, 0, 0])).tolist() == [False, True, True, False]


def test_no_iterations_judge_the_start():
    model, (x, _) = classifier(), samples(0)
    y = model(x).argmax(1)
    y[1] = (y[1] + 1) % 4
    _, fooled = normalized_pgd(model, x, y, iterations=0)
    assert fooled.tolist() == [False, True, False, False, False, False]


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4, 2)])
def test_random_starts_are_uniform_in_the_ball(shape):
    centre = torch.randn(1, *shape, dtype=torch.float64)
    x = centre.expand(4000, *shape)
    start = random_start(x, 0.7, torch.Generator().manual_seed(0))
    offset = (start - x).flatten(1)
    share = (offset.norm(dim=1) / 0.7) ** math.prod(shape)  # of the ball's volume within that radius
    assert share.max() <= 1 + 1e-9
    assert stats.kstest(share.numpy(), "uniform").pvalue > 0.01
    assert bool((offset.mean(0).abs() < 0.05).all())


def test_random_starts_are_a_matter_of_the_seed():
    x = torch.zeros(3, 2)
    first, second, other = (random_start(x, 1, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_noise_has_its_deviation_and_stays_in_the_box_if_there_is_one():
    x = torch.full((100, 50), 0.5)
    free = gaussian_noise(x, 2.0, torch.Generator().manual_seed(0))
    assert free.mean().item() == pytest.approx(0.5, abs=0.1)
    assert free.std().item() == pytest.approx(2, abs=0.05)
    boxed = gaussian_noise(x, 2.0, torch.Generator().manual_seed(0), (0.0, 1.0))
    assert torch.equal(boxed, free.clamp(0, 1))


@given(seed=st.integers(0, 1000), eps=st.floats(0.1, 3))
def test_the_strong_attack_is_exact_on_linear_networks(seed, eps):
    torch.manual_seed(seed)
    layer, x = torch.nn.Linear(5, 6).double(), torch.randn(30, 5, dtype=torch.float64)
    y = layer(x).argmax(1)
    logits, others = layer(x).detach(), layer.weight[None] - layer.weight[y][:, None]
    gaps = (logits.gather(1, y[:, None]) - logits) / others.norm(dim=2)
    distance = gaps.scatter(1, y[:, None], torch.inf).amin(1)  # to the nearest other class
    near = gaps.scatter(1, y[:, None], torch.inf).argmin(1)
    aimed = logits.scatter(1, y[:, None], -torch.inf).topk(4, dim=1).indices  # the fifth is far behind
    sure = (distance - eps).abs() > 1e-3 * eps
    sure &= (aimed == near[:, None]).any(1) | (distance > eps)
    adversarial, fooled = strong_attack(layer, x, y, eps=eps, step=eps / 8)
    assert torch.equal(fooled[sure], (distance < eps)[sure])
    assert sample_norm(adversarial - x).max() <= eps * (1 + 1e-9)
    assert torch.equal(layer(adversarial).argmax(1) != y, fooled)


def test_the_strong_attack_leaves_a_wrong_valley_within_as_many_gradients():
    gradients = 0

    def network(x):
        """The nearest class is never reached; another one is, the other way."""
        nonlocal gradients
        gradients += x.requires_grad
        return torch.stack([0 * x[:, 0], 0.9 * x[:, 0] - 1, -3 * x[:, 0] - 2], dim=1)

    x, y = torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)
    settings = {"eps": 1.0, "step": 1 / 8, "iterations": 60}
    assert not normalized_pgd(network, x, y, **settings)[1]
    gradients = 0
    assert strong_attack(network, x, y, **settings)[1]
    assert gradients <= 60
