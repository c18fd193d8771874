"""What every test has: a fixed seed, and few quick examples a property."""

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


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def quick_bounds():
    """Brackets that nobody looks at need not be narrow."""
    from support.searches import short_ascents, short_searches

    with short_searches(), short_ascents():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of `QUICK`, to be read or copied, and what `execute_run` returned."""
    from cheaplip.runs.configure import configure_run
    from cheaplip.runs.execute import execute_run
    from support.networks import QUICK
    from support.searches import short_ascents, short_searches

    folder = tmp_path_factory.mktemp("finished") / "run"
    with short_searches(), short_ascents():
        return folder, execute_run(configure_run(QUICK), folder)


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of the folder of the finished run, to be changed."""
    return shutil.copytree(finished[0], tmp_path / "run")
