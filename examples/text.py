"""Texts: which package a docstring is of, by a small BERT, and what wrong words do to the answer. Needs `transformers`."""

import inspect
import re
import sys
from collections import Counter

import matplotlib.pyplot as plt
import numpy
import scipy.stats
import torch
import transformers

import cheaplip
from cheaplip.transformers import LipschitzTrainerMixin

WORDS, LENGTH, EPOCHS = 1000, 24, 15
PACKAGES = (numpy, scipy.stats, torch)


class StableTrainer(LipschitzTrainerMixin, transformers.Trainer):
    """With the penalty."""


texts = []
for label, package in enumerate(PACKAGES):
    for found in sorted({inspect.getdoc(member) or "" for _, member in inspect.getmembers(package)}):
        words = re.findall("[a-z]{3,}", re.sub("numpy|scipy|stats|torch|tensor|array", "", found.lower()))
        texts += [(words[i : i + LENGTH], label) for i in range(0, min(len(words), 200) - LENGTH, LENGTH)]
order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
texts = [texts[i] for i in order]
known = {word: i + 1 for i, (word, _) in enumerate(Counter(w for words, _ in texts for w in words).most_common(WORDS - 1))}
ids = torch.tensor([[known.get(word, 0) for word in words] for words, _ in texts])
labels = torch.tensor([label for _, label in texts])
x, y, held_out, x_test, y_test = ids[1000:], labels[1000:], ids[800:1000], ids[:800], labels[:800]
shares = (0.0, 0.2, 0.4, 0.6)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for name, weight in {"plain": cheaplip.ConstantWeight(0.0), "clip": cheaplip.DiscrepancyPrinciple(tolerance=0.01)}.items():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=WORDS, num_labels=len(PACKAGES), max_position_embeddings=LENGTH, **sizes)
    model = transformers.BertForSequenceClassification(config)

    def network(embedded, model=model):
        return model(inputs_embeds=embedded).logits

    penalty = cheaplip.LipschitzRegularizer(network, cheaplip.embedding_pairs(model.get_input_embeddings(), held_out))
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "use_cpu": True}
    settings = transformers.TrainingArguments(
        "unused", num_train_epochs=EPOCHS, learning_rate=2e-3, per_device_train_batch_size=64, **quiet
    )
    rows = [{"input_ids": row, "labels": label} for row, label in zip(x, y, strict=True)]
    StableTrainer(model, settings, train_dataset=rows, lipschitz_term=cheaplip.PenaltyTerm(penalty, weight)).train()
    model.eval()
    torch.manual_seed(1)
    accuracies = []
    for share in shares:
        wrong = torch.where(torch.rand(x_test.shape) < share, torch.randint(WORDS, x_test.shape), x_test)
        with torch.no_grad():
            accuracies.append(float((model(input_ids=wrong).logits.argmax(1) == y_test).double().mean()))
    told = (f"{accuracy:.3f} at {share:.0%}" for share, accuracy in zip(shares, accuracies, strict=True))
    print(f"{name}: test accuracy with wrong words: {', '.join(told)}")
    axes.plot(shares, accuracies, marker="o", label=name)
axes.set(xlabel="share of wrong words", ylabel="test accuracy")
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
