"""
Print how much space clicks take: ``python -m benchmarks.sizes``.

Fills the tables on PostgreSQL or MariaDB, as AFFILIATIONS_TEST_DATABASE says, as the benchmark of
the growth does: of fifty clicks one converts, with one callback that needs one attempt.
"""

from __future__ import annotations

import argparse
import os

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
os.environ.setdefault("AFFILIATIONS_TEST_DATABASE", "postgresql")
os.environ.setdefault("AFFILIATIONS_TEST_NAME", "benchmarks")
django.setup()

from django.db import connection  # noqa: E402

from benchmarks import growth  # noqa: E402
from benchmarks.tables import tables  # noqa: E402

BYTES = {
    "postgresql": "SELECT pg_table_size(%s), pg_indexes_size(%s)",
    "mysql": "SELECT data_length, index_length FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name IN (%s, %s)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=1_000_000)
    visitors = parser.parse_args().visitors
    with tables(), connection.cursor() as cursor:
        growth.fill(visitors)
        print(f"{connection.vendor:32}{'rows':>10}{'table':>10}{'indexes':>10}{'a row':>10}")
        for model in growth.MODELS:
            table, rows = model._meta.db_table, model._base_manager.count()
            cursor.execute(BYTES[connection.vendor], [table, table])
            data, indexes = cursor.fetchone()
            print(
                f"{table:32}{rows:>10,}{data / 1e6:>7,.0f} MB{indexes / 1e6:>7,.0f} MB"
                f"{(data + indexes) / rows:>8,.0f} B",
                flush=True,
            )


if __name__ == "__main__":
    main()
