from .architectures import ACTIVATIONS, MODELS, cnn, mlp

__all__ = ["ACTIVATIONS", "MODELS", "cnn", "mlp"]
