r"""The difference quotient, the quantity everything else here raises, lowers or bounds.

Vocabulary. A *pair* is two inputs (u, v) of one shape. Its *quotient* is

    L(u, v) = |f(u) - f(v)| / |u - v|          (equation (5) of the CLIP paper, arXiv:2103.12531, for one pair)

A *pair set* X_Lip is a finite set of pairs; the largest quotient in it is a lower bound of the Lipschitz constant
Lip(f) = sup L. The *ascent* (`ascent`) moves pairs so that their quotients rise; a *regularizer* (`regularizer`) holds
the pair set and turns the quotients of its *active pairs* into a *penalty* for the training loss.

f is always the network in evaluation mode: a Lipschitz constant belongs to one deterministic function, and the pairs
must leave no trace in running statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import checked
from ..errors import InputError
from ..inference import Model, forward, forward_checked, full_precision, like_parameters
from ..norms import sample_norm


@checked
def difference_quotient(model: Model, u: Tensor, v: Tensor, input_norm: float = 2, output_norm: float = 2) -> Tensor:
    r"""L(u, v) = |f(u) - f(v)|_output / |u - v|_input for every pair, differentiable in u, v and the parameters.

    Args:
        model: f, evaluated in evaluation mode; its mode and running statistics are left as they were.
        u: first points, `(pairs, *input)`.
        v: second points, of the same shape.
        input_norm: exponent of the norm on inputs, 1 <= p <= inf, over all entries of a sample.
        output_norm: exponent of the norm on outputs.

    Returns:
        `(pairs,)`, in units of output per unit of input. A pair with u = v, on which the quotient is undefined,
        gives 0: it bounds nothing. Each value is a lower bound of Lip(f) up to floating-point rounding.

    Raises:
        InputError: u and v differ in shape or are not floats, or the model does not return one tensor with a row for
            each input.

    Source: equation (5) of the CLIP paper.

    Example:
        >>> difference_quotient(lambda x: -3 * x, torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [7.0]]))
        tensor([3., 3.])
    """
    if u.shape != v.shape:
        do = "A pair is two inputs of one shape."
        raise InputError("u and v of one shape", f"{tuple(u.shape)} and {tuple(v.shape)}", do)
    if u.dim() == 0 or not u.layout == v.layout == torch.strided or not (u.is_floating_point() and v.is_floating_point()):
        do = "Convert the inputs with .float()."
        raise InputError("points (pairs, *input) of floating-point type", f"shape {tuple(u.shape)} of {u.dtype}", do)
    forward_checked(model, like_parameters(u[:1], model))
    return pair_quotient(model, torch.stack([u, v], dim=1), input_norm, output_norm)


def pair_quotient(model: Model, points: Tensor, input_norm: float = 2, output_norm: float = 2) -> Tensor:
    """`difference_quotient` of pairs whose two points lie side by side in one tensor, `(pairs, 2, *input)` -> `(pairs,)`."""
    points = like_parameters(points, model)  # before the distance is taken: what is rounded is another pair
    inputs = points.flatten(0, 1).clone()  # the network may change its input in place
    outputs = forward(model, inputs).unflatten(0, (-1, 2))
    points = full_precision(points)
    return quotient_of(outputs[:, 0] - outputs[:, 1], points[:, 0] - points[:, 1], input_norm, output_norm)


def quotient_of(rise: Tensor, gap: Tensor, input_norm: float = 2, output_norm: float = 2) -> Tensor:
    """|rise| / |gap| for each pair, given f(u) - f(v) and u - v; 0 where the gap is 0."""
    distance = sample_norm(gap, input_norm)
    apart = distance > 0
    # the inner `where` keeps 0/0 out of the backward pass, the outer one out of the value
    return torch.where(apart, sample_norm(rise, output_norm) / torch.where(apart, distance, 1.0), 0.0)
