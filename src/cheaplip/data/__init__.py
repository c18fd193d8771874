"""The data sets: found, downloaded, verified, split."""

from .arrays import Dataset, catalogue, from_arrays, load, verify
from .neighbours import attainable_value

__all__ = ["Dataset", "attainable_value", "catalogue", "from_arrays", "load", "verify"]
