"""Messages say what was expected, what came, and what to do."""

import pytest

from cheaplip.errors import CheaplipError, DivergenceError, InputError, UnsupportedModuleError, require_known


def test_every_message_has_three_parts():
    assert str(InputError("a number > 0", -1, "Give a positive one.")) == "expected a number > 0; got -1. Give a positive one."
    message = str(DivergenceError("the loss", 7, "Lower the learning rate."))
    assert message == "training diverged in epoch 7: the loss is not finite. Lower the learning rate."


def test_the_family_is_caught_as_one_and_as_pythons_own():
    assert issubclass(UnsupportedModuleError, InputError)
    assert issubclass(InputError, ValueError)
    assert issubclass(DivergenceError, RuntimeError)
    assert all(issubclass(error, CheaplipError) for error in (InputError, DivergenceError))


def test_a_known_name_passes():
    require_known("method", "clip", {"clip", "weight"})


@pytest.mark.parametrize(
    ("name", "hint"), [("clp", "Did you mean 'clip'"), ("zzz", "Choose one"), (None, "Choose"), (3, "Choose")]
)
def test_an_unknown_name_is_echoed_with_the_nearest_known(name, hint):
    with pytest.raises(InputError, match=hint) as caught:
        require_known("method", name, {"clip": 1, "weight": 2})
    assert f"expected method to be one of clip, weight; got {name!r}" in str(caught.value)
