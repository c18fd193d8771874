"""The networks of the paper, and how a run names one."""

from .architectures import ACTIVATIONS, MODELS, cnn, mlp

__all__ = ["ACTIVATIONS", "MODELS", "cnn", "mlp"]
