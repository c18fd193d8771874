"""Two processes: `torchrun --nproc-per-node 2 examples/two_processes.py`. Each has its share."""

import torch
import torch.distributed as dist

import cheaplip
from cheaplip.robustness import accuracy as accuracy_of

digits = cheaplip.data.load("digits")
torch.manual_seed(0)
trained = cheaplip.fit(cheaplip.models.mlp((1, 8, 8), 10), digits, target=0.95, epochs=30, batch_size=16, lr=0.05)
if not dist.is_initialized() or dist.get_rank() == 0:
    accuracy = accuracy_of(trained.model, digits.test_x, digits.test_y)
    weight, bound = trained.history[-1]["weight"], trained.history[-1]["lower_bound"]
    print(f"test accuracy {accuracy:.3f}, weight {weight:.3f}, Lip(f) >= {bound:.2f}")
if dist.is_initialized():
    dist.destroy_process_group()
