from .loop import TrainResult, fit

__all__ = ["TrainResult", "fit"]
