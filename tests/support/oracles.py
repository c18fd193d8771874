"""Slow, plain loops that say the same as the library: the judges of its fast paths."""

import itertools
import math

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn


def norm(x, p):
    """The p-norm of all entries of one numpy array."""
    flat = np.abs(np.asarray(x, dtype=np.float64)).ravel()
    if p == np.inf:
        return flat.max(initial=0.0)
    return float((flat**p).sum() ** (1 / p))


def quotient(model, u, v, p=2, q=2):
    """L(u, v) of one pair of tensors of shape (*input)."""
    with torch.no_grad():
        rise = model(u[None])[0].double() - model(v[None])[0].double()
    return norm(rise, q) / norm(u.double() - v.double(), p)


def quotients(model, u, v, p=2, q=2):
    return np.array([quotient(model, a, b, p, q) for a, b in zip(u, v, strict=True)])


def differentiable_quotient(model, a, b):
    """L of one pair with a graph, Euclidean, from elementary operations."""
    rise = model(a[None]) - model(b[None])
    return (rise * rise).sum() ** 0.5 / ((a - b) * (a - b)).sum() ** 0.5


def algorithm_1(model, u, v, tau):
    """One adversarial update as the paper prints it, pair by pair: x + tau L grad_x L, x' + tau L grad_x' L."""
    new_u, new_v = [], []
    for one, other in zip(u, v, strict=True):
        a, b = one.clone().requires_grad_(), other.clone().requires_grad_()
        value = differentiable_quotient(model, a, b)
        grad_a, grad_b = torch.autograd.grad(value, (a, b))
        new_u.append(one + tau * value.item() * grad_a)
        new_v.append(other + tau * value.item() * grad_b)
    return torch.stack(new_u), torch.stack(new_v)


def reduced(values, reduction, power):
    """The penalty of a list of quotients."""
    powered = sorted((value**power for value in values), reverse=True)
    chosen = {"max": powered[:1], "mean": powered}[reduction]
    return sum(chosen) / len(chosen)


def output_gram(weights, multipliers, slopes):
    """The multiplier certificate with inverses, as its equations are printed; real weights, one multiplier a row."""
    sigma = torch.eye(weights[0].shape[1]).double()
    for weight, t, (low, high) in zip(weights, multipliers, slopes, strict=False):
        gram = weight @ sigma @ weight.T
        middle, radius = (low + high) / 2, (high - low) / 2
        t = t * (radius > 0)
        inverse = gram @ torch.linalg.inv(torch.eye(len(t)).double() - torch.diag(t) @ gram)  # (G^-1 - T)^-1
        sigma = middle * inverse * middle + torch.diag((radius**2 / t).nan_to_num(0.0))
    return weights[-1] @ sigma @ weights[-1].T


def _cross_entropy_gradient(model, x, y):
    x = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(x[None]), y[None])
    return torch.autograd.grad(loss, x)[0]


def soft_margin(logits, label):
    """log sum over the other classes of exp(4 (z_j - z_label) / s), s the standard deviation of the logits, a constant."""
    spread = logits.detach().std().item()
    others = [j for j in range(len(logits)) if j != label]
    return torch.log(sum(torch.exp(4 * (logits[j] - logits[label]) / spread) for j in others))


def _soft_margin_gradient(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(soft_margin(model(x[None])[0], y.item()), x)[0]


def project(point, centre, eps, box):
    offset = point - centre
    length = offset.norm().item()
    if length > eps:
        offset = offset * (eps / length)
    point = centre + offset
    return point if box is None else point.clamp(*box)


def equation_14(model, x, y, eps, alpha, iterations, box=None):
    """The paper's attack, sample by sample."""
    adversarial = []
    for centre, label in zip(x, y, strict=True):
        point = centre
        for _ in range(iterations):
            point = project(point + alpha * _cross_entropy_gradient(model, point, label).sign(), centre, eps, box)
        adversarial.append(point)
    return torch.stack(adversarial)


def normalized_pgd(model, x, y, eps, step, iterations, box=None):
    """Steps along the normalised gradient of the soft margin, sample by sample; stops at the first misclassified point."""
    points, fooled = [], []
    for centre, label in zip(x, y, strict=True):
        point, wrong = centre, False
        for iteration in range(iterations + 1):
            with torch.no_grad():
                wrong = model(point[None]).argmax(1).item() != label.item()
            if wrong or iteration == iterations:
                break
            gradient = _soft_margin_gradient(model, point, label)
            point = project(point + step * gradient / gradient.norm(), centre, eps, box)
        points.append(point)
        fooled.append(wrong)
    return torch.stack(points), torch.tensor(fooled)


def matrix(layer, shape):
    """The dense matrix of the linear part of a layer on one input of `shape`, a column for each unit vector, float64."""
    layer = layer.double().eval()
    units = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return (layer(units) - layer(torch.zeros_like(units[:1]))).flatten(1).T.numpy()


def spectral_norm(layer, shape):
    return float(np.linalg.svd(matrix(layer, shape), compute_uv=False)[0])


def lipschitz_of_relu_net(first, second):
    """Lip of x -> W2 relu(W1 x) for generic W1 with at most as many hidden units as inputs: all patterns are attained."""
    w1, w2 = first.weight.detach().double().numpy(), second.weight.detach().double().numpy()
    assert w1.shape[0] <= w1.shape[1]
    patterns = itertools.product([0.0, 1.0], repeat=w1.shape[0])
    return max(np.linalg.norm(w2 @ np.diag(pattern) @ w1, 2) for pattern in patterns)


def lipschitz_by_regions(model):
    """Lip of x -> W2 relu(W1 x + b1) + b2: the largest norm of W2 D W1 over the patterns D that some open region attains.

    A pattern is attained if the linear programme "maximise the slack of all its inequalities" has a positive optimum.
    """
    first, second = (layer for layer in model if isinstance(layer, torch.nn.Linear))
    w1, b1, w2 = (part.detach().double().numpy() for part in (first.weight, first.bias, second.weight))
    largest = 0.0
    for pattern in itertools.product([0.0, 1.0], repeat=len(b1)):
        sign = 2 * np.array(pattern) - 1
        # sign (w1 x + b1) >= slack, slack <= 1
        rows = np.hstack([-sign[:, None] * w1, np.ones((len(b1), 1))])
        bounds = [(None, None)] * w1.shape[1] + [(None, 1)]
        best = linprog([*[0] * w1.shape[1], -1], rows, sign * b1, bounds=bounds)
        if best.success and best.x[-1] > 1e-9:
            largest = max(largest, np.linalg.norm(w2 @ np.diag(pattern) @ w1, 2))
    return largest


def lipsdp_neuron(weights, low, high):
    """The optimum of the semidefinite programme of LipSDP-Neuron, by an interior-point solver: not a proof itself.

    Slopes are one number for all neurons, or a vector for each layer.
    """
    import cvxpy

    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights[:-1])]
    ends = np.cumsum([0, *widths])
    select = [np.eye(ends[-1])[a:b] for a, b in itertools.pairwise(ends)]
    square = cvxpy.Variable()
    matrix = square * select[0].T @ select[0]
    for i, weight in enumerate(weights[:-1]):
        multipliers = cvxpy.diag(cvxpy.Variable(widths[i + 1], nonneg=True))
        before, after = weight @ select[i], select[i + 1]
        least, most = (np.diag(np.broadcast_to(end[i] if isinstance(end, tuple) else end, len(weight))) for end in (low, high))
        product = (after - least @ before).T @ multipliers @ (most @ before - after)
        matrix = matrix - product - product.T
    out = weights[-1] @ select[-1]
    problem = cvxpy.Problem(cvxpy.Minimize(square), [matrix - out.T @ out >> 0])
    problem.solve(solver=cvxpy.CLARABEL)
    return float(square.value) ** 0.5
