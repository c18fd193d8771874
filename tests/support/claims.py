"""Who else may write into a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cheaplip.errors import InputError


def refused_in_another_thread(action: Callable[[], object]) -> bool:
    """Whether it is refused there, because the folder is in use."""
    refused = []

    def attempt() -> None:
        with pytest.raises(InputError, match="in use"):
            action()
        refused.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(refused)
