"""A cross-entropy with a margin and a bounded loss, for networks whose penalty limits their margins."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ..errors import InputError


def margin_cross_entropy(
    logits: Tensor, y: Tensor, *, margin: float, saturation: float, weights: Tensor | None = None
) -> Tensor:
    r"""Mean over the samples of (1 - p^q) / q, p the probability of the label with its logit lowered by the margin m:

        p = softmax(f(x) - m e_y)_y,      for q = 0: -log p

    Where the Lipschitz constant is bounded, an attack has to overcome a sample's margin, the largest logit minus the next.
    Plain cross-entropy is small at margins of a few units, and its gradient is dominated by samples that cannot be
    classified correctly, because -log p is unbounded. With m > 0 margins below m count as errors; with q > 0 no sample costs
    more than 1 / q. Rescaling the logits has no effect here: the scheduler compensates by another weight.

    With m q of about 1 (4 and 0.3) networks learn from the first epoch on. Larger margins saturate the loss of a network
    that is far from them. They need a ramp, as in `fit`; with m q above 2.4 the network may misclassify a whole class.

    Args:
        logits: `(n, classes)`.
        y: labels, `(n,)` int64.
        margin: m >= 0, in units of the logits.
        saturation: q in [0, 1).
        weights: of the samples, `(n,)`, with mean 1: what each loss is multiplied by.

    Raises:
        InputError: a margin or a saturation outside its range.

    Source: margin: Tsuzuku, Sato, Sugiyama 2018 (there it is the Lipschitz constant times a radius); saturation:
    generalised cross-entropy, Zhang and Sabuncu 2018.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> float(margin_cross_entropy(logits, torch.tensor([0]), margin=2.0, saturation=0.5))  # p = 1/2
        0.5857864618301392
    """
    if not 0 <= margin < math.inf or not 0 <= saturation < 1:
        got = f"margin {margin} and saturation {saturation}"
        raise InputError("a margin >= 0 and a saturation in [0, 1)", got, "Try 4 and 0.3.")
    if margin:
        logits = logits - margin * one_hot(y, logits.shape[1]).to(logits)
    if not saturation and weights is None:
        return cross_entropy(logits, y)
    losses = cross_entropy(logits, y, reduction="none")
    if saturation:
        losses = -torch.expm1(-saturation * losses) / saturation
    return losses.mean() if weights is None else (losses * weights).mean()
