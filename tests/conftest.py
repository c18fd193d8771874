"""What every test has: a fixed seed, and few quick examples a property."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the networks here are tiny: a second thread only waits, and on a busy machine for long

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
