"""What is attacked: a classifier under noise, under equation (14), and under a strong attack."""

from .accuracy import RobustnessReport, accuracy, evaluate_robustness

__all__ = ["RobustnessReport", "accuracy", "evaluate_robustness"]
