"""The certificate of `ellipsoid` round single points, for networks that are too wide for its matrices."""

from .certificate import ENTRIES
from .distances import certified_distances
from .steps import Steps, steps_of

__all__ = ["ENTRIES", "Steps", "certified_distances", "steps_of"]
