"""How the benchmarks measure: works that take turns in one process, and rows of one table."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """``run`` does the work a number of times; ``begin`` runs first and is not measured."""

    run: Callable[[int], None]
    begin: Callable[[], None] = lambda: None


@dataclass
class Row:
    """A line of the table; a ratio has a goal that it may not exceed, or must reach."""

    name: str
    figure: str
    ratios: Sequence[float] = ()
    goal: str = ""

    def __str__(self) -> str:
        line = f"  {self.name:44}{self.figure:>16}"
        if not self.ratios:
            return line
        low, middle, high = quartiles(self.ratios)
        return f"{line}{middle:>9.3f}   {low:.3f} to {high:.3f}   {self.goal}".rstrip()


HEADER = f"{'':46}{'':>16}{'ratio':>9}   {'half of them':14}   goal"


def quartiles(values: Sequence[float]) -> Sequence[float]:
    return statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3


def fastest(
    works: Mapping[str, Work],
    count: int,
    turns: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """
    Return the seconds of each work, in the fastest twentieth of the turns.

    The works alternate in turns of about a millisecond, so other work on the machine affects all
    alike. It can only make a turn slower.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    order = list(works.items())
    for _ in range(turns):
        for name, work in order:
            times[name].append(_turn(work, count, clock))
        order.reverse()  # So that no work always follows the same other.
    return {name: statistics.quantiles(taken, n=20)[0] / count for name, taken in times.items()}


def _turn(work: Work, count: int, clock: Callable[[], float]) -> float:
    """
    Return the time of the work, ``count`` times.

    The garbage is collected beforehand; otherwise it might always affect the same work.
    """
    work.begin()
    work.run(1)
    gc.collect()
    gc.disable()
    began = clock()
    work.run(count)
    ended = clock()
    gc.enable()
    return ended - began
