"""Clicks, conversions and payouts, as numbers and as charts."""

from typing import TYPE_CHECKING

from affiliations.lazy import lazy_exports

__all__ = [
    "Arrivals",
    "Dimension",
    "Interval",
    "Numbers",
    "Others",
    "Period",
    "ReportResult",
    "arrivals",
    "arrivals_by_partner",
    "bars",
    "by_partner",
    "report",
]

if TYPE_CHECKING:
    from affiliations.dates import Interval, Period
    from affiliations.reports.charts import bars
    from affiliations.reports.numbers import Arrivals, Dimension, Numbers, Others, ReportResult
    from affiliations.reports.queries import arrivals, arrivals_by_partner, by_partner, report
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "charts": ["bars"],
            "numbers": ["Arrivals", "Dimension", "Numbers", "Others", "ReportResult"],
            "queries": [
                "Interval",
                "Period",
                "arrivals",
                "arrivals_by_partner",
                "by_partner",
                "report",
            ],
        },
    )
