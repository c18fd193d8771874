"""The limit to the gradients of penalised steps."""

import pytest
import torch
from torch import nn

from cheaplip import fit
from cheaplip.data import load
from cheaplip.models import cnn
from cheaplip.regularization.gradient_clip import FACTOR, GROWTH, GradientClip


def clipped(clip, *gradient):
    parameter = nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    clip([parameter])
    return parameter.grad


def test_gradients_far_above_the_usual_are_cut_and_others_left():
    clip = GradientClip(10)
    torch.testing.assert_close(clipped(clip, 3.0, 4.0), torch.tensor([3.0, 4.0]))
    assert float(clip.usual.value) == 5
    torch.testing.assert_close(clipped(clip, 0.0, 7.4), torch.tensor([0.0, 7.4]))
    usual = 5 + GROWTH / 10 * 2.4
    assert float(clip.usual.value) == pytest.approx(usual)
    torch.testing.assert_close(clipped(clip, 0.0, 1e9), torch.tensor([0.0, FACTOR * usual]))
    assert float(clip.usual.value) == pytest.approx(usual + GROWTH / 10 * (FACTOR - 1) * usual)


def test_a_norm_that_is_not_finite_teaches_nothing():
    clip = GradientClip(10)
    clipped(clip, 3.0, 4.0)
    clipped(clip, torch.inf, 1.0)
    assert float(clip.usual.value) == 5
    first = GradientClip(10)
    clipped(first, torch.inf, 1.0)
    clipped(first, 3.0, 4.0)
    assert float(first.usual.value) == 5


def test_a_saved_limit_goes_on():
    clip, other = GradientClip(10), GradientClip(10)
    clipped(clip, 3.0, 4.0)
    other.load_state_dict(clip.state_dict())
    assert torch.equal(clipped(clip, 30.0, 40.0), clipped(other, 30.0, 40.0))


@pytest.mark.slow
def test_a_weight_far_too_large_for_the_learning_rate_blows_nothing_up():
    """Without the limit, the bound of this training ends beyond 1e100."""
    torch.manual_seed(0)
    model = cnn((1, 8, 8), 10, hidden=(3, 6, 16))
    done = fit(model, load("digits"), weight=0.1, certify=0.1, epochs=6, interval=8, batch_size=32, seed=2)
    assert done.history[-1]["upper_bound"] < 1000
    assert done.result["train_accuracy"] > 0.9
