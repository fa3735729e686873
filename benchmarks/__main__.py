"""
Measure what the package costs: ``python -m benchmarks [names of comparisons]``.

pyperf starts the measuring processes and stores their values; README.rst explains the results.
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
        # pyperf would print each value as a number of seconds.
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
    """Return the ratio of the time with the package to the time without it, ``loops`` times."""
    without, ours = fastest(loops, name)
    return ours / without * loops


def seconds(loops: int, name: str) -> float:
    """Return the time without the package, ``loops`` times; measured less exactly."""
    without, _ = fastest(20, name)
    return without * loops


def fastest(loops: int, name: str) -> list[float]:
    """
    Return the time without and with the package, in the fastest twentieth of the turns.

    The two alternate in turns of about a millisecond, so other work on the machine affects both
    alike. It can only make a turn slower.
    """
    without, ours, count = prepared(name)
    turns = [(turn(without, count), turn(ours, count)) for _ in range(loops)]
    return [statistics.quantiles(times, n=20)[0] / count for times in zip(*turns, strict=True)]


def turn(work: Work, count: int) -> float:
    """
    Return the CPU time of the work, ``count`` times, which excludes other processes.

    The garbage is collected beforehand; otherwise it might always affect the same one of the two.
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
    # Exclude all existing objects from garbage collection.
    gc.collect()
    gc.freeze()
    return *both, comparison.count


main()
