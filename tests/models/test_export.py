"""Networks in files: what is loaded without this library computes the same, and what is known of it travels along."""

import sys

import pytest
import torch
from torch import nn

from cheaplip.errors import InputError
from cheaplip.models import cnn, mlp
from cheaplip.models.export import export_model
from support.exported import run_exported
from support.networks import seeded

KNOWN = {"lower": 1.5, "upper": float("inf"), "scope": "all inputs"}


class Last(nn.Module):
    """The last output of a GRU."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


NETWORKS = {
    "mlp": (lambda: mlp((1, 5, 5), 3), (1, 5, 5)),
    "cnn": (lambda: cnn((1, 8, 8), 3, hidden=(2, 3, 4)), (1, 8, 8)),
    "dropout and batch normalisation": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)), (4,)),
    "recurrent": (Last, (7, 3)),
}


CASES = [(name, suffix) for name in NETWORKS for suffix in ("pt2", "onnx")]


@pytest.mark.parametrize(("name", "suffix"), [*CASES[:2], *(pytest.param(*c, marks=pytest.mark.slow) for c in CASES[2:])])
def test_the_file_is_the_network(tmp_path, name, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxscript")
    make, shape = NETWORKS[name]
    model, x = seeded(make), torch.rand(5, *shape)
    export_model(model, x[:2], tmp_path / f"model.{suffix}", about=KNOWN)
    assert model.training  # its mode is its own
    outputs, known = run_exported(tmp_path / f"model.{suffix}", x)
    torch.testing.assert_close(outputs, model.eval()(x), rtol=0, atol=1e-5)
    assert known == KNOWN
    assert list(tmp_path.iterdir()) == [tmp_path / f"model.{suffix}"]


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "x", "name", "match"),
    [
        (nn.Linear(2, 1), torch.rand(2, 2), "model.pt", "ends in .pt2 or .onnx; got model.pt"),
        (nn.Linear(2, 1), torch.rand(1, 2), "model.pt2", "two samples at least; got 1"),
        (nn.Linear(2, 1), torch.rand(2, 2), "no/model.pt2", "a file in a folder that there is; got .*model.pt2"),
        (nn.Linear(2, 1), "x", "model.pt2", "x to be Tensor"),
        (Choosing(), torch.rand(2, 2), "model.pt2", "torch.export can trace; got .* without a choice that depends on values"),
    ],
)
def test_refusals(tmp_path, model, x, name, match):
    with pytest.raises(InputError, match=match):
        export_model(model, x, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'cheaplip\[onnx\]'"):
        export_model(nn.Linear(2, 1), torch.rand(2, 2), tmp_path / "model.onnx")
