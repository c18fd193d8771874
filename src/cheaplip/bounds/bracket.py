"""`lipschitz_bracket`: lower <= Lip(f) <= upper, with the methods, the scope and the witness."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ..arguments import checked
from ..domains import Domain, describe
from ..errors import ContradictionError, InputError, UnsupportedModuleError
from ..pairs.sets import PairSet
from .division import is_divisible
from .jacobian import JACOBIAN_NORMS, LowerBound, jacobian_lower_bound
from .lower import lower_bound
from .question import Norms, Question, UpperBound
from .rounding import QUOTIENTS
from .upper import answer, ask


@dataclass(frozen=True)
class LipschitzBracket:
    """lower <= Lip(f) <= upper, for the network in evaluation mode and exact arithmetic."""

    lower: float
    upper: float
    witness: tuple[Tensor, ...]  # the pair (u, v) or the point at which `lower` is attained
    methods: dict[str, str]  # of {"lower": ..., "upper": ...}
    scope: str  # on which inputs the bracket holds
    seconds: float
    input_norm: float = 2
    output_norm: float = 2
    budget: float | None = None  # seconds that the searches might take; None: until they converged
    reason: str | None = None  # why there is no upper end, where it is inf
    pairwise: Tensor | None = None
    """`(outputs, outputs)` upper bounds of Lip(f_i - f_j), 2-norm on inputs; None where the certificate gives none."""

    @property
    def ratio(self) -> float:
        """Upper / lower: 1 is the exact constant."""
        return self.upper / self.lower if self.lower > 0 else math.inf

    def __repr__(self) -> str:
        """The statement and where it holds, without the witness's numbers."""
        reason = f", {self.reason}" if self.reason else ""
        return f"LipschitzBracket({self.lower:.6g} <= Lip(f) <= {self.upper:.6g}, {self.scope}{reason})"


@checked
def lipschitz_bracket(
    model: nn.Module,
    inputs: Tensor,
    *,
    domain: Domain | None = None,
    input_norm: float = 2,
    output_norm: float = 2,
    budget: float | None = 60.0,
    pairwise: bool = False,
    pairs: PairSet | None = None,
    steps: int = 50,
    multipliers: Sequence[Tensor] = (),
    require_upper: bool = False,
) -> LipschitzBracket:
    """A lower and an upper bound of Lip(f).

    The lower end is the best of ascent on pairs and of Jacobian norms (see `lower_bound`), the upper end the multiplier
    certificate, or the product of layer norms where that is smaller or the only one; on a domain of few inputs that of
    subdivision, which mostly ends with the two 1 % apart (see `upper_bound`).

    Args:
        model: f; for the upper end a network of layers and operations with a rule, in whatever order and branches.
        inputs: start points of the search for the lower end, `(n, *input)`.
        domain: box or `Ball` on which Lip(f) is meant: the search stays in it, and the upper end need hold there only.
        input_norm: exponent of the norm on inputs, 2 or inf.
        output_norm: exponent of the norm on outputs, 2 or inf.
        budget: seconds after which the searches stop with what they have, half for each, or what the other one leaves; None:
            until they converge.
        pairwise: search multipliers for every difference of two outputs too, for larger certified radii.
        pairs: further start pairs, such as those of a regularizer.
        steps: ascent steps.
        multipliers: of a certificate in training, as `TrainResult` and `CertificateRegularizer` have them: the search for the
            upper end starts from them, and never ends above what they prove.
        require_upper: raise where there is no upper end; else the bracket has `upper = inf` and the reason.

    Raises:
        InputError: no inputs, inputs or parameters that are not finite, other norms, a budget <= 0, multipliers of another
            network.
        UnsupportedModuleError: with `require_upper`, a layer without a rule, or a product of values without a domain.
        ContradictionError: the lower end is above the upper one. One of the two is wrong; nothing is reported.
    """
    if budget is not None and not budget > 0:
        raise InputError("a budget > 0 in seconds", budget, "Give more time, or none for no limit.")
    begun = time.monotonic()
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    options = {"norms": Norms(input_norm, output_norm), "pairwise": pairwise, "multipliers": multipliers}
    question = _asked(model, inputs, require_upper, domain=domain, **options)

    def lower_end() -> LowerBound:
        left = None if budget is None else max(budget - (time.monotonic() - begun), 0.1 * budget)
        share = 0.5 if lower_first else 1.0
        own = None if left is None else share * left
        return lower_bound(model, inputs, domain=domain, pairs=pairs, steps=steps, budget=own, **norms)

    def upper_end(share: float, attained: float) -> UpperBound:
        if isinstance(question, UpperBound):
            return question
        return answer(replace(question, deadline=math.inf if budget is None else begun + share * budget, attained=attained))

    # which of the two can use all the time that is left comes last
    lower_first = isinstance(question, Question) and is_divisible(question)
    if lower_first:
        lower = lower_end()
        upper = upper_end(1.0, lower.value)
    else:
        upper = upper_end(0.5, 0.0)
        lower = lower_end()
    if upper.steepest is not None and (input_norm, output_norm) in JACOBIAN_NORMS:
        lower = max(
            lower,
            jacobian_lower_bound(model, upper.steepest, input_norm=input_norm, output_norm=output_norm),
            key=lambda bound: bound.value,
        )
    if lower.value > upper.value * (1 + QUOTIENTS):
        raise ContradictionError(lower.value, lower.method, upper.value, upper.method)
    return LipschitzBracket(
        lower.value,
        max(upper.value, lower.value),  # on a linear map they are the same number, computed in two ways
        lower.witness,
        {"lower": lower.method, "upper": upper.method},
        describe(domain),
        time.monotonic() - begun,
        budget=budget,
        reason=upper.method if upper.value == math.inf else None,
        pairwise=upper.pairwise,
        **norms,
    )


def _asked(model: nn.Module, inputs: Tensor, required: bool, **options: Any) -> Question | UpperBound:
    """The question of the upper end; where nothing can be proved, that is the answer."""
    try:
        return ask(model, tuple(inputs.shape[1:]), **options)
    except UnsupportedModuleError as error:
        if required:
            raise
        return UpperBound(math.inf, f"nothing is proved: {error}", describe(options["domain"]))
