"""The data sets: found, downloaded, verified, split."""

from .arrays import Dataset, catalogue, from_arrays, load, verify

__all__ = ["Dataset", "catalogue", "from_arrays", "load", "verify"]
