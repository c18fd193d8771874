from .architectures import ACTIVATIONS, MODELS, cnn, mlp
from .export import export_model

__all__ = ["ACTIVATIONS", "MODELS", "cnn", "export_model", "mlp"]
