"""A penalty that is evaluated now and then, with its gradient held in between.

Between two evaluations the penalty is replaced by its linear model: its last value, with the last gradient attached to the
parameters. Each step of the optimizer then has the same share of the penalty. A penalty that comes every k-th step with k
times its weight has the same mean, but one step in k is k times as long: gradient clipping cuts it, Adam's second moment
rescales it, and a line search does not find it again.

The linear model is a tensor like any other. It can be scaled, squared, accumulated over micro-batches, clipped, and
averaged over processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..inference import Model, evaluating, full_precision, parameters_of
from .statistics import following_statistics


class HeldGradient:
    """The last value of a penalty, `()`, and its gradient by the parameters that it depends on."""

    def __init__(self, value: Tensor, gradients: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.value = value
        self.gradients = list(gradients)  # (parameter, gradient) of each
        self._parameters = [parameter for parameter, _ in self.gradients]
        self._gradients = [gradient for _, gradient in self.gradients]
        self._versions = [parameter._version for parameter in self._parameters]

    def attached(self) -> Tensor:
        """The value with the held gradient; without a graph where no parameter needs one."""
        if not self._parameters:
            return self.value
        result: Tensor = _Attach.apply(self.value, self._gradients, *self._parameters)  # type: ignore[no-untyped-call]
        return result

    def moved(self) -> bool:
        """Whether a parameter has changed since this was last asked, or since the evaluation; False where nobody can tell.

        Code that `torch.compile` traces has no versions. An optimizer with a closure does not run in it.
        """
        if torch.compiler.is_compiling():
            return False
        before, self._versions = self._versions, [parameter._version for parameter in self._parameters]
        return before != self._versions

    def norm(self) -> Tensor:
        """Of the gradient, `()`."""
        if not self._gradients:
            return torch.zeros(())
        lengths = torch._foreach_norm([full_precision(gradient) for gradient in self._gradients])
        result: Tensor = torch.stack([length.to(lengths[0]) for length in lengths]).norm()
        return result

    def scale(self, factor: float) -> None:
        """Multiply the gradient, and leave the value. Not in place: parameters may share one, and it may be expanded."""
        self._gradients = list(torch._foreach_mul(self._gradients, factor)) if self._gradients else []
        self.gradients = list(zip(self._parameters, self._gradients, strict=True))

    def is_elsewhere(self) -> bool:
        """Whether the network has moved to another device since the evaluation."""
        return len(self._parameters) > 0 and self._parameters[0].device != self._gradients[0].device


class _Attach(torch.autograd.Function):
    """(value, gradients, parameters...) -> value, whose derivatives by the parameters are the gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *torch._foreach_mul(ctx.gradients, factor.to(ctx.gradients[0])))


def evaluate(model: Model, parts: Iterable[Callable[[], Tensor]]) -> HeldGradient:
    """The sum of some scalars, of all processes, each with a graph of its own that is freed before the next one is made.

    The backward pass runs in evaluation mode and full precision too: where the network recomputes activations
    (`torch.utils.checkpoint`), they are those of the forward pass.
    """
    value: Tensor | None = None
    gradients: dict[int, tuple[Tensor, Tensor]] = {}
    with torch.enable_grad(), evaluating(model), following_statistics(model):
        for part in parts:
            penalty = part()
            value = penalty.detach() if value is None else value + penalty.detach()
            found = leaves(penalty)
            with torch.autocast(penalty.device.type, enabled=False):
                new = torch.autograd.grad(penalty, found) if found else ()
            for parameter, gradient in zip(found, new, strict=True):
                earlier = gradients.get(id(parameter))
                gradients[id(parameter)] = (parameter, gradient if earlier is None else earlier[1] + gradient)
    return HeldGradient(*over_processes(model, torch.zeros(()) if value is None else value, gradients))


def over_processes(
    model: Model, value: Tensor, gradients: Mapping[int, tuple[Tensor, Tensor]]
) -> tuple[Tensor, Iterable[tuple[Tensor, Tensor]]]:
    """The sums over all processes of a value and its gradients; a parameter may be without one on some of them."""
    if processes.count() == 1:
        return value, gradients.values()
    parameters: dict[int, Tensor] = {id(parameter): parameter for parameter in parameters_of(model)}
    parameters |= {place: parameter for place, (parameter, _) in gradients.items()}
    known = torch.tensor([float(place in gradients) for place in parameters], device=value.device)
    mine = [gradients[place][1] if place in gradients else torch.zeros_like(p) for place, p in parameters.items()]
    value, known, *of_all = processes.summed([value, known, *mine])
    known_by = zip(parameters.values(), of_all, known.tolist(), strict=True)
    return value, [(parameter, gradient) for parameter, gradient, n in known_by if n]


def leaves(penalty: Tensor) -> list[Tensor]:
    """The parameters that a tensor depends on: the leaves of its graph, whatever the model is made of."""
    found: dict[int, Tensor] = {}
    stack, seen = [penalty.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        stack += [following for following, _ in node.next_functions]
    return list(found.values())


def held_state(held: HeldGradient | None, model: Model) -> dict[str, Any] | None:
    """For a checkpoint: the value, and each gradient with its parameter's place in the model; None if one has no place."""
    if held is None:
        return None
    places = {id(parameter): i for i, parameter in enumerate(parameters_of(model))}
    if not all(id(parameter) in places for parameter, _ in held.gradients):
        return None  # after a restart it is evaluated anew
    return {"value": held.value, "gradients": {places[id(p)]: gradient for p, gradient in held.gradients}}


def held_from(state: Mapping[str, Any] | None, model: Model) -> HeldGradient | None:
    """Continue from `held_state`."""
    if state is None:
        return None
    parameters = parameters_of(model)
    gradients = [(parameters[i], gradient.to(parameters[i].device)) for i, gradient in state["gradients"].items()]
    value = state["value"].to(gradients[0][1].device) if gradients else state["value"]
    return HeldGradient(value, gradients)
