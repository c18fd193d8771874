r"""A bound of the Jacobian's norm on boxes, for networks of smooth activations, from polynomials of degree two.

Forwards, each value before an activation is a polynomial in the box, and so is the slope of each neuron (`polynomials`).
Backwards, with P the derivatives of the outputs by the values after an activation,

    P  becomes  (P times the slopes) W,

where products of degree three and the errors of slopes become new numbers y, one a neuron and output; in the last step,
towards the inputs, products of degree three are kept. That gives the Jacobian as a sum of matrices, each times a number in
[-1, 1]. It is J(c) and the second derivative at c times x - c, but for errors that fall with the square of the box's width.
Intervals see neither that the slopes change together nor that what they change cancels.

All is in float64, with bounds of the rounding errors beside each polynomial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .centred import DenseNetwork, dense_network
from .layers.curvature import curvature
from .matrix_sums import largest_norm
from .polynomials import Polynomial, Products, longer, reach_of, slopes, values
from .rounding import SLOPES, TINY, gamma
from .serial import Affine

COST = 2**30
"""Multiplications for one box, at most."""
THIRDS = 3.0
"""Errors of slopes fall about with this power of the width of the box; for the choice of where to cut it."""


@dataclass(frozen=True)
class _Step:
    """An activation with the matrix before it."""

    affine: Affine
    slope: Polynomial  # (cells, entries)
    error: Tensor  # (cells, entries)
    share: Tensor  # (cells, entries, inputs), by how much the errors would fall with each side of the box


class Expansion:
    """The network on boxes.

    Args:
        network: matrices and smooth activations in turn.
    """

    def __init__(self, network: DenseNetwork) -> None:
        self._network = network

    @classmethod
    def of(cls, steps: Sequence[Affine | nn.Module]) -> Expansion | None:
        """None for networks of other kinds, without activations, or too large."""
        network = dense_network(steps)
        if network is None or not network.acts or any(curvature(act) is None for act in network.acts):
            return None
        made = cls(network)
        return made if made.cost <= COST else None

    @property
    def cost(self) -> int:
        """Multiplications for one box."""
        weights = [affine.weight for affine in self._network.affine]
        inputs, outputs = weights[0].shape[1], len(weights[-1])
        numbers = inputs * (inputs + 3) // 2 + (1 + outputs) * sum(len(weight) for weight in weights[:-1])
        inner = sum(weight.numel() for weight in weights[1:])
        return outputs * numbers * (inner + inputs**2 * len(weights[0])) + outputs * inputs**3 * numbers

    def __call__(self, centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """For boxes of this centre and half width, `(cells, inputs)`, each.

        Returns:
            An upper bound of the Jacobian's norm, `(cells,)`, and about how much of it each side of the box makes,
            `(cells, inputs)`.
        """
        products = Products(centre.shape[1], centre)
        steps, shares = self._forwards(centre, half, products)
        return _backwards(self._network.affine[-1], steps, shares, products)

    def _forwards(self, centre: Tensor, half: Tensor, products: Products) -> tuple[list[_Step], list[Tensor]]:
        """The slopes, and the shares of the numbers y so far."""
        cells, inputs = centre.shape
        value = Polynomial(centre, torch.diag_embed(half), centre.new_zeros(cells, inputs, 0))
        error = torch.zeros_like(centre)
        steps: list[_Step] = []
        shares = [products.share.expand(cells, -1, -1)]
        for affine, act in zip(self._network.affine, self._network.acts, strict=False):
            weight, bias = affine.weight, affine.bias
            size = value.constant.abs() + sum(value.sizes()) + error
            rounding = gamma(weight.shape[1] + 2 + affine.terms) * (size @ affine.sizes.T + affine.size)
            product = value.times(weight.T)
            rest = product.rest
            if steps:  # a number for the error of each value
                rest = torch.cat([rest, weight * error[:, None]], -1)
                shares.append(steps[-1].share)
            value, error = Polynomial(product.constant + bias, product.linear, rest), rounding * (1 + SLOPES)
            slope, wrong = slopes(act, value, error)
            steps.append(_Step(affine, slope, wrong, THIRDS * value.linear.abs() / reach_of(value, error)[..., None]))
            if act is not self._network.acts[-1]:
                value, error = values(act, value, error, products)
        return steps, shares


def _backwards(last: Affine, steps: list[_Step], shares: list[Tensor], products: Products) -> tuple[Tensor, Tensor]:
    cells, inputs = len(steps[0].error), products.share.shape[1]
    constant = last.weight.expand(cells, -1, -1)  # (cells, outputs, entries)
    p = Polynomial(constant, *constant.new_zeros(2, *constant.shape, 0))
    loose = gamma(last.terms) * last.sizes.expand(cells, -1, -1)  # what rounding makes of it
    for step in reversed(steps[1:]):
        error, loose = _errors(p, loose, step, inputs)
        slope = _for_each_output(step.slope)
        (linear, rest), (tilt, other) = p.sizes(), slope.sizes()
        error = error + linear * other + rest * tilt
        p = _product(p, slope, products).times(step.affine.weight)
        p = Polynomial(p.constant, p.linear, torch.cat([p.rest, _by_output(error, step.affine.weight)], -1))
        shares += [step.share] * error.shape[1]
    first = steps[0]
    error, loose = _errors(p, loose, first, inputs)
    p, cubic = _towards_inputs(p, _for_each_output(first.slope), first.affine.weight, products)
    return _norm(p, cubic, error[..., None] * first.affine.weight, loose, first.share, torch.cat(shares, 1), products)


def _for_each_output(slope: Polynomial) -> Polynomial:
    return Polynomial(slope.constant[:, None], slope.linear[:, None], slope.rest[:, None])


def _errors(p: Polynomial, loose: Tensor, step: _Step, inputs: int) -> tuple[Tensor, Tensor]:
    """Of P times the slopes, but for what is of degree three; and of that times W, by rounding."""
    (linear, rest), (tilt, other) = p.sizes(), _for_each_output(step.slope).sizes()
    size, steep = p.constant.abs() + linear + rest + loose, step.slope.constant.abs()[:, None] + tilt + other
    error = size * step.error[:, None] + rest * other + loose * steep + gamma(inputs) * size * steep
    terms = len(step.affine.weight) + inputs + step.affine.terms
    return error, gamma(terms) * (size * steep + error) @ step.affine.sizes


def _product(p: Polynomial, slope: Polynomial, products: Products) -> Polynomial:
    """Of degree two."""
    constant, linear, rest = (part * p.constant[..., None] for part in (slope.constant[..., None], slope.linear, slope.rest))
    if p.linear.shape[-1]:
        mean, square = products.of(p.linear, slope.linear)
        constant = constant + mean[..., None]
        linear = linear + p.linear * slope.constant[..., None]
        rest = longer(longer(p.rest * slope.constant[..., None], rest), square)
    return Polynomial(constant[..., 0], linear, rest)


def _by_output(error: Tensor, weight: Tensor) -> Tensor:
    """Numbers y of their own for each output and neuron, times the weights, `(cells, outputs, columns, outputs * neurons)`."""
    outputs = error.shape[1]
    each = (error[..., None] * weight)[:, :, None] * torch.eye(outputs).to(error)[:, :, None, None]
    return each.flatten(2, 3).mT


def _towards_inputs(p: Polynomial, slope: Polynomial, weight: Tensor, products: Products) -> tuple[Polynomial, Tensor]:
    """(P times the slopes) W of degree two, and the products of d_l and y, `(cells, outputs, inputs, inputs, numbers)`.

    The slopes of the first activation are straight lines in d alone.
    """
    inputs, outputs = weight.shape[1], p.constant.shape[1]
    flat = weight.T * slope.constant[:, :, None]  # (cells, 1, inputs, neurons)
    tilted = (weight.T[:, None] * slope.linear.mT[:, :, None]).flatten(2, 3)  # (cells, 1, inputs * inputs, neurons)
    constant, linear = (
        (flat @ p.constant[..., None])[..., 0],
        (tilted @ p.constant[..., None])[..., 0].unflatten(2, (inputs, -1)),
    )
    if not p.linear.shape[-1]:
        return Polynomial(constant, linear, linear.new_zeros(*constant.shape, products.count)), linear[..., None][..., :0]
    mean, square = products.of_matrix((tilted @ p.linear).unflatten(2, (inputs, inputs)))
    rest, cubic = (torch.cat([flat, tilted], 2).expand(-1, outputs, -1, -1) @ p.rest).split([inputs, inputs**2], 2)
    return Polynomial(constant + mean, linear + flat @ p.linear, longer(rest, square)), cubic.unflatten(2, (inputs, inputs))


def _norm(
    p: Polynomial, cubic: Tensor, errors: Tensor, loose: Tensor, share: Tensor, shares: Tensor, products: Products
) -> tuple[Tensor, Tensor]:
    """Of the Jacobian p + cubic + errors, and the parts of the sides of the box."""
    p, bows, axes, wrong = _bowed(p, products)
    norm, (_, linear, bow, rest, own, thirds) = largest_norm(
        [p.constant[..., None], p.linear, bows, p.rest], [errors.permute(0, 3, 1, 2).flatten(2)[:, None], cubic.flatten(3)]
    )
    norm = (norm + wrong + torch.linalg.vector_norm(loose, dim=(1, 2))) * (1 + SLOPES)
    thirds = thirds.unflatten(1, (len(axes[0]), cubic.shape[-1]))
    parts = linear + thirds.sum(2) + ((2 * bow)[:, None] * axes).sum(2)
    parts = parts + (longer(rest, thirds.sum(1))[..., None] * shares).sum(1)
    return norm, parts + (own.unflatten(1, (-1, share.shape[1])).sum(1)[..., None] * share).sum(1)


def _bowed(p: Polynomial, products: Products) -> tuple[Polynomial, Tensor, Tensor, Tensor]:
    """The products along the Jacobian J at the centre as squares, which have one sign.

    Along u = J / |J| they are d^T K d = sum_r k_r (v_r . d)^2, and each square lies between 0 and |v_r|_1^2. Where J is
    largest K has no positive part, and this sees that nothing is added there.

    Returns:
        The polynomial without them, the half ranges times u, `(cells, outputs, inputs, inputs)`, the shares of the inputs in
        each |v_r|_1, `(cells, inputs, inputs)`, and an error, `(cells,)`.
    """
    length = torch.linalg.vector_norm(p.constant, dim=(1, 2), keepdim=True).clamp(min=TINY)
    u = p.constant / length  # (cells, outputs, inputs)
    squares, others = p.rest[..., : products.count], p.rest[..., products.count :]
    along = (u[..., None] * squares).sum((1, 2))
    mean, matrix = products.matrix(along)
    level, axes = torch.linalg.eigh(matrix.nan_to_num(0.0, 0.0, 0.0))
    span = axes.abs().sum(1, keepdim=True)
    half = level * span[:, 0].square() / 2
    again = (axes * level[:, None]) @ axes.mT
    rounding = gamma(len(axes[0])) * (axes.abs() * level.abs()[:, None]) @ axes.abs().mT
    wrong = ((matrix - again).abs() + rounding).sum((1, 2))
    constant = p.constant + u * (mean + half.sum(1))[:, None, None]
    rest = torch.cat([squares - u[..., None] * along[:, None, None], others], -1)
    return Polynomial(constant, p.linear, rest), u[..., None] * half[:, None, None], axes.abs() / span, wrong
