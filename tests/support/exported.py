"""Exported networks, as one runs them without this library."""

import json

import pytest
import torch


def run_exported(path, x):
    """The outputs at x of the network in a file, and what the file says of it."""
    if path.suffix == ".pt2":
        files = {"cheaplip.json": ""}
        network = torch.export.load(path, extra_files=files).module()
        return network(x), json.loads(files["cheaplip.json"])
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(outputs), json.loads(session.get_modelmeta().custom_metadata_map["cheaplip"])
