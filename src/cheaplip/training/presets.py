"""Named settings to start from."""

from __future__ import annotations

from typing import Any

from ..errors import require_known
from .config import TrainConfig, altered
from .paper import PAPER

PRESETS = {"default": TrainConfig(), "paper": PAPER}


def configure(preset: str = "default", **options: Any) -> TrainConfig:
    """A preset with some settings changed; `weight` or `lipschitz` alone drops the preset's target.

    Raises:
        InputError: an unknown preset or setting, or a value outside its range.
    """
    require_known("preset", preset, PRESETS)
    return altered(PRESETS[preset], options)
