"""A cross-entropy that looks at margins, for networks that a penalty keeps from having large ones everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ..errors import InputError


def margin_cross_entropy(logits: Tensor, y: Tensor, *, margin: float, saturation: float) -> Tensor:
    r"""Mean over the samples of (1 - p^q) / q, p the probability of the label with its logit lowered by the margin m:

        p = softmax(f(x) - m e_y)_y,      for q = 0: -log p

    Where a Lipschitz constant is bounded, a sample's margin, largest logit less the next, is what an attack has to overcome.
    Plain cross-entropy is content with margins of a few units, and spends most on samples that are lost anyway: -log p grows
    without limit. With m > 0 margins below m count as errors; with q > 0 hopeless samples count for no more than 1 / q. A
    temperature would change nothing: the weight that meets the target takes it up.

    Where m q is about 1 (4 and 0.3) networks learn from the first epoch on. Larger margins saturate the loss of a network
    that is far from them: they have to set in slowly, as in `fit`, and above 2.4 a class may be given up.

    Args:
        logits: `(n, classes)`.
        y: labels, `(n,)` int64.
        margin: m >= 0, in units of the logits.
        saturation: q in [0, 1).

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
    if not saturation:
        return cross_entropy(logits, y)
    log_p = -cross_entropy(logits, y, reduction="none")
    return -torch.expm1(saturation * log_p).mean() / saturation
