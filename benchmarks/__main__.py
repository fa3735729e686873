"""
Measure what the package costs: ``python -m benchmarks [names of comparisons]``.

pyperf starts the processes that measure and keeps their values; README.rst says how to read them.
"""

from __future__ import annotations

import gc
import io
import os
import statistics
import time
from contextlib import redirect_stdout
from functools import cache

import django
import pyperf
from django.core.management import call_command

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
django.setup()

from benchmarks.comparisons import COMPARISONS, Work  # noqa: E402


def main() -> None:
    runner = pyperf.Runner(
        processes=5,
        values=3,
        warmups=0,
        loops=150,
        program_args=("-m", "benchmarks"),
        add_cmdline_args=lambda command, args: command.extend(args.names),
    )
    runner.argparser.add_argument(
        "names", nargs="*", metavar="name", help=f"all of them by default: {', '.join(COMPARISONS)}"
    )
    args = runner.parse_args()
    if unknown := set(args.names) - set(COMPARISONS):
        runner.argparser.error(f"there is no {', '.join(sorted(unknown))}")
    if not args.worker:
        print(f"{'':24}{'without':>12}{'with':>12}{'ratio':>8}  half of the ratios")
    for name in args.names or COMPARISONS:
        # pyperf would print each value as seconds.
        with redirect_stdout(io.StringIO()):
            ratios = runner.bench_time_func(f"{name}: ratio", ratio, name)
            times = runner.bench_time_func(f"{name}: without", seconds, name)
        if not args.worker:
            print(line(name, ratios, times), flush=True)


def line(name: str, ratios: pyperf.Benchmark, times: pyperf.Benchmark) -> str:
    low, middle, high = (ratios.percentile(percent) for percent in (25, 50, 75))
    without = times.median() * 1e6
    return (
        f"{name:24}{without:>9,.0f} µs{without * middle:>9,.0f} µs{middle:>8.3f}"
        f"  {low:.3f} to {high:.3f}"
    )


def ratio(loops: int, name: str) -> float:
    """Return how many times as long the work takes with us, ``loops`` times."""
    without, ours = fastest(loops, name)
    return ours / without * loops


def seconds(loops: int, name: str) -> float:
    """Return how long the work takes without us, ``loops`` times; need not be as exact."""
    without, _ = fastest(20, name)
    return without * loops


def fastest(loops: int, name: str) -> list[float]:
    """
    Return how long the work takes without us and with us, in the fastest twentieth of the turns.

    The two take turns of a millisecond or so: whatever else the machine is doing makes a turn
    slower and none faster, and meets both alike.
    """
    without, ours, count = prepared(name)
    turns = [(turn(without, count), turn(ours, count)) for _ in range(loops)]
    return [statistics.quantiles(times, n=20)[0] / count for times in zip(*turns, strict=True)]


def turn(work: Work, count: int) -> float:
    """
    Return how long the work takes, ``count`` times, in CPU time: other processes take none of it.

    The garbage is collected beforehand, or the same turn of the two might always pay for it.
    """
    work.begin()
    work.run(1)
    gc.collect()
    gc.disable()
    began = time.process_time()
    work.run(count)
    ended = time.process_time()
    gc.enable()
    return ended - began


@cache
def prepared(name: str) -> tuple[Work, Work, int]:
    call_command("migrate", run_syncdb=True, verbosity=0)
    comparison = COMPARISONS[name]
    both = comparison.without(), comparison.ours()
    # What has been made so far is the garbage collector's business no more.
    gc.collect()
    gc.freeze()
    return *both, comparison.count


main()
