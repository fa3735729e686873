"""
Measure what the package costs, in one table: ``python -m benchmarks``.

README.rst explains the table. AFFILIATIONS_TEST_DATABASE selects the database of the deliveries
and of the growth, as for the tests.
"""

from __future__ import annotations

import argparse
import os
import time

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "benchmarks")
django.setup()

from benchmarks import costs, delivery, growth  # noqa: E402
from benchmarks.measure import HEADER  # noqa: E402

PARTS = {"costs": costs, "delivery": delivery, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"All by default: {', '.join(PARTS)}.")
    options = parser.parse_args()
    began = time.perf_counter()
    print(HEADER)
    for name in options.parts or PARTS:
        for row in PARTS[name].rows():
            print(row, flush=True)
    print(f"\nmeasured in {time.perf_counter() - began:.0f} s")


main()
