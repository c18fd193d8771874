"""What every test has: a fixed seed, few quick examples a property, and nothing to wait for that no test can see."""

import functools
import os
import shutil

# the networks here are tiny: a second thread only waits, and on a busy machine for long
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("fast", max_examples=12, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")


@pytest.fixture(autouse=True, scope="session")
def nothing_to_wait_for():
    """The digits are read once, no file is flushed to the disk (no test cuts the power), no folder in use is waited for."""
    from cheaplip import run_folder
    from cheaplip.data import arrays

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(run_folder, "PATIENCE", 0.05)
        patch.setattr(arrays, "_load_digits", functools.cache(arrays._load_digits))
        yield


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def quick_bounds():
    """Brackets that nobody looks at need not be narrow."""
    from support.searches import short_ascents, short_examples, short_searches

    with short_searches(), short_ascents(), short_examples():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of `QUICK`, to be read or copied, and what `execute_run` returned."""
    from cheaplip.runs.configure import configure_run
    from cheaplip.runs.execute import execute_run
    from support.networks import QUICK
    from support.searches import short_ascents, short_examples, short_searches

    folder = tmp_path_factory.mktemp("finished") / "run"
    with short_searches(), short_ascents(), short_examples():
        return folder, execute_run(configure_run(QUICK), folder)


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the folder of the finished run, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")
