"""What is known of single layers: their constants, the slopes of activations, where their outputs lie."""

from . import normalization, ordering
from .activations import derivative, slope_interval
from .constants import infinity_norm, layer_norm, local_norm
from .curvature import curvature

__all__ = [
    "curvature",
    "derivative",
    "infinity_norm",
    "layer_norm",
    "local_norm",
    "normalization",
    "ordering",
    "slope_interval",
]
