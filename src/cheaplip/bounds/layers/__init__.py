"""What is known of single layers: their constants, the slopes of activations, the intervals of their outputs."""

from .activations import derivative, slope_interval
from .constants import infinity_norm, layer_norm

__all__ = ["derivative", "infinity_norm", "layer_norm", "slope_interval"]
