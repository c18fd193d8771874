"""A controller that is proved stable near its operating point: a learned policy, and a bound of the closed loop.

The plant is x' = A x + B u, unstable without control. The policy imitates an expert with saturated inputs. In a ball round
the origin, every state comes nearer to it in each step, in the norm of P: |next(x)|_P <= rho |x|_P with rho < 1, because
next(0) = 0.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

import cheaplip

EPOCHS, RADIUS = 60, 0.5

a, b = np.array([[1.0, 0.1], [0.2, 1.0]]), np.array([[0.0], [0.1]])
p = solve_discrete_are(a, b, np.eye(2), np.eye(1))
gain = np.linalg.solve(np.eye(1) + b.T @ p @ b, b.T @ p @ a)
root = np.linalg.cholesky(solve_discrete_lyapunov((a - b @ gain).T, np.eye(2))).T  # |x|_P = |root x|
to, back = (torch.tensor(m, dtype=torch.float32) for m in (root, np.linalg.inv(root)))
a, b = (torch.tensor(m, dtype=torch.float32) for m in (a, b))


def linear(matrix):
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight.data = matrix
    return layer


class ClosedLoop(torch.nn.Module):
    """z -> root (A x + B (u(x) - u(0))), x = root^-1 z: one step, in coordinates whose length is |.|_P."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy
        self.register_buffer("rest", policy(torch.zeros(1, 2)).detach())
        self.back, self.drift, self.control = linear(back), linear(to @ a), linear(to @ b)

    def forward(self, z):  # noqa: D102
        x = self.back(z)
        return self.drift(x) + self.control(self.policy(x) - self.rest)


torch.manual_seed(0)
x = 4 * torch.rand(1000, 2) - 2
expert = (-x @ torch.tensor(gain.T, dtype=torch.float32)).clamp(-5, 5)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for name, weight in (("plain", 0.0), ("with the penalty", 3e-4)):
    torch.manual_seed(0)
    policy = cheaplip.models.mlp((2,), 1, hidden=(16, 16), activation="tanh")
    settings = {"optimizer": "Adam", "optimizer_options": {}, "lr": 0.01, "batch_size": 32, "epochs": EPOCHS}
    cheaplip.fit(policy, (x, expert), method="clip", weight=weight, **settings)
    domain = cheaplip.Ball(torch.zeros(2), RADIUS)
    rho = cheaplip.lipschitz_bracket(ClosedLoop(policy), torch.zeros(1, 2), domain=domain, budget=20)
    print(f"{name}: {rho.lower:.4f} <= contraction in one step <= {rho.upper:.4f} on |x|_P <= {RADIUS}")
    state, lengths = RADIUS * torch.tensor([[1.0, 0.0]]), []
    with torch.no_grad():
        for _ in range(60):
            lengths.append(float(state.norm()))
            state = ClosedLoop(policy)(state)
    axes.semilogy(lengths, label=f"{name}, proved {rho.upper:.3f} a step")
axes.set(xlabel="step", ylabel="distance to the origin")
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
