"""Train with and without the penalty, attack both networks, and bracket their Lipschitz constants."""

import torch

import cheaplip
from cheaplip.data import load
from cheaplip.models import mlp

digits = load("digits")  # 8x8 images, pixels in [0, 1]

for method in ("standard", "clip"):
    torch.manual_seed(0)
    model = mlp((1, 8, 8), 10)
    trained = cheaplip.fit(model, digits, method=method, target=0.97, epochs=40, batch_size=32, lr=0.05, seed=0)
    report = cheaplip.evaluate_robustness(
        trained.model, digits.test_x[:300], digits.test_y[:300], eps=0.75, noise=0.2, iterations=40, curve=(0.25, 0.5, 1.0)
    )
    bracket = cheaplip.lipschitz_bracket(trained.model, digits.test_x[:100])
    print(f"{method}: training accuracy {trained.result['train_accuracy']:.3f}, test accuracy {report.test_accuracy:.3f}")
    print(f"  under an L2 attack of length 0.75: {report.strong_accuracy:.3f}; under noise: {report.noise_accuracy:.3f}")
    for point in report.curve:
        print(f"  under an attack of length {point['eps']}: {point['strong_accuracy']:.3f}")
    print(f"  {bracket.lower:.2f} <= Lip(f) <= {bracket.upper:.2f} ({bracket.methods['upper']}, {bracket.scope})")
