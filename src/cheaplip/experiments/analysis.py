"""Section 3 of the paper as numbers."""

from ..errors import InputError


def reproduce_analysis(out, **options):
    raise InputError("x", "y", "z")
