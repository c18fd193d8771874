"""What every test has: a fixed seed, and few quick examples a property."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("fast", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
