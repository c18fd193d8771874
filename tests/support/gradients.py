"""Gradients, and what makes two sets of them the same."""

import torch


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if one is None else one, torch.zeros(()) if other is None else other, rtol=1e-4, atol=1e-6
        )
