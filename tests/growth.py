"""How the time of a piece of work grows with its input, on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds in which work is done at once, however it grows: a step of the memory's allocation may
#: multiply a shorter time.
AT_ONCE = 0.25
#: How much longer four times the input may take: linear work takes four times as long, quadratic
#: work 16 times.
LIMIT = 10


def assert_linear(work: Callable[[int], object], length: int) -> None:
    """
    Fail if ``work`` takes more than linear time.

    It is called with ``length``, and with a quarter of it if it was not done at once. Three times,
    if need be, since a busy machine may slow down one of two calls.
    """
    for _ in range(3):
        seconds = _seconds(work, length)
        if seconds < AT_ONCE or seconds < LIMIT * (quarter := _seconds(work, length // 4)):
            return
    raise AssertionError(f"{length // 4} take {quarter:.3f} seconds, {length} {seconds:.3f}")


def _seconds(work: Callable[[int], object], length: int) -> float:
    """Return the processor's time that work takes."""
    began = time.process_time()
    work(length)
    return time.process_time() - began
