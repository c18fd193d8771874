from .loop import fit
from .outcome import TrainResult

__all__ = ["TrainResult", "fit"]
