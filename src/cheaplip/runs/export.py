"""The network of a finished run as one file that runs without this library."""

from __future__ import annotations

from pathlib import Path

from ..inference import device_of
from ..models.export import export_model, require_exportable
from ..models.spec import require_trusted
from ..run_folder import Json
from .configure import read_config
from .execute import finished

ABOUT = ("method", "seed", "data", "data_checksum", "model", "weights_sha256", "test_accuracy", "test_loss")
PROVED = ("lipschitz", "certified", "certified_locally", "samples")


def export_run(folder: Path, out: Path, *, data_dir: Path | None = None, trust_model: bool = False) -> Json:
    """Write the network of a run to `out` (see `export_model`); returns what the file says of it.

    Raises:
        InputError: what `export_model` refuses, a folder that holds no finished run, a network that is code without
            `trust_model`.
    """
    require_exportable(out)
    config = read_config(folder)
    require_trusted(config.model, folder, trust_model)
    result, data, model = finished(folder, config, data_dir)
    about = {name: result[name] for name in (*ABOUT, *PROVED) if name in result}
    about["version"] = result["provenance"]["version"]
    export_model(model, data.test_x[:2].to(device_of(model)), out, about=about)
    return about
