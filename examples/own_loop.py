"""Cheap Lipschitz training in a loop of your own: three lines more than plain training."""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import cheaplip
from cheaplip.data import load
from cheaplip.models import mlp

torch.manual_seed(0)
digits = load("digits")  # 8x8 images, pixels in [0, 1]
held_out_inputs, x, y = digits.train_x[:130], digits.train_x[130:], digits.train_y[130:]
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
epochs = 30

model = mlp((1, 8, 8), 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
lr_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=0.001)

pairs = cheaplip.perturbed_pairs(held_out_inputs, noise=0.1)
regularizer = cheaplip.LipschitzRegularizer(model, pairs)
term = cheaplip.PenaltyTerm(regularizer, cheaplip.DiscrepancyPrinciple(target=0.95))

for epoch in range(epochs):
    for inputs, labels in loader:
        logits = model(inputs)
        loss = cross_entropy(logits, labels) + term(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        term.step()
    lr_schedule.step()
    accuracy = term.running.value()
    term.update_weight()
    if epoch % 5 == 4:
        known = term.metrics()
        print(
            f"epoch {epoch + 1}: training accuracy {accuracy:.3f}, weight {known['weight']:.3f}, "
            f"Lip(f) >= {known['lower_bound']:.2f}"
        )

with torch.no_grad():
    accuracy = (model(digits.test_x).argmax(1) == digits.test_y).float().mean()
print(f"test accuracy {accuracy:.3f}")
