"""
Bar charts, drawn on the server as SVG elements of a page.

The template ``affiliations/chart.html`` contains only shapes, texts and classes, as a strict
Content-Security-Policy demands. ``static/affiliations/charts.css`` styles them, light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from math import ceil, floor, log10

from django.template.loader import render_to_string
from django.utils.formats import date_format, number_format
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from affiliations.amounts import figure, money, smallest_unit
from affiliations.dates import Interval
from affiliations.reports.columns import interval_label
from affiliations.reports.numbers import ReportResult

Number = int | float | Decimal

#: In units of the drawing, which is scaled: it is 330 px wide on a phone and at most 520 px by
#: ``charts.css``. A text of 14 units is easy to read at either width.
_WIDTH, _HEIGHT, _TEXT, _GAP = 400, 210, 14, 6
#: The estimated width of a letter.
_LETTER = 0.6 * _TEXT
#: The maximum length of a label below a bar, and of a series in the legend.
_LABEL_LENGTH = 16
#: The maximum of currencies with a chart over time.
_CURRENCIES = 4
#: The chart has space for at least this many bars, so that a few bars are not too wide.
_PLACES = 5
_LEGEND_COLUMNS = 2

#: Characters that XML forbids, and those that change the direction of the text that follows.
_UNWRITABLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u200d\u2010-\u2027\u2030-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    "|[\u2066-\u2069]"
)


def bars(
    name: str,
    title: str,
    labels: Sequence[date | str],
    series: Mapping[str, Sequence[Number | None]],
    *,
    description: str = "",
    currency: str = "",
) -> SafeString:
    """
    Draw a bar chart as an ``<svg>`` element.

    The page must link ``affiliations/charts.css``. Texts are escaped.

    Args:
        name: A name of your own that no other chart on the page has. Never pass user input.
        title: The title, for screen readers.
        labels: Days, which are written in the reader's format, or texts.
        series: The values by the name of the series, one value for each label, ``None`` for no bar.
            A legend is shown for two or more.
        description: The summary for screen readers; written from the values by default.
        currency: The currency of the values, if they are money.
    """
    return _chart(
        name, title, labels, series, description, currency, _scale_width(series, currency)
    )


def _chart(
    name: str,
    title: str,
    labels: Sequence[date | str],
    series: Mapping[str, Sequence[Number | None]],
    description: str,
    currency: str,
    scale_width: float,
) -> SafeString:
    """Draw a chart, whose bars begin behind a scale of this width."""
    texts = [
        _printable(
            date_format(label, "SHORT_DATE_FORMAT") if isinstance(label, date) else str(label)
        )
        for label in labels
    ]
    scale = _scale(series, currency)
    context = {
        "name": name,
        "title": _printable(title),
        "description": _printable(description or _summary(texts, series, currency)),
        "width": _WIDTH,
        "height": _HEIGHT,
        "nothing": "" if scale else _("No data for this period"),
    }
    if scale:
        context |= _drawing(texts, series, scale, currency, scale_width)
    return render_to_string("affiliations/chart.html", context)


def over_time(interval: Interval, result: ReportResult) -> list[tuple[str, SafeString]]:
    """
    Return titles and charts: of the clicks, the conversions, and the payout in each currency.

    Only the first few currencies have a chart; the table beside the charts has all of them.
    The bars of a day are at the same place in all charts, and the same days have labels.
    """
    rows = [(start, numbers) for (start, _key), numbers in result.rows.items() if start]
    labels = [
        interval_label(interval, start) if interval is Interval.MONTH else start
        for start, _numbers in rows
    ]
    lines: list[tuple[str, str, list[Number | None], str]] = [
        ("clicks", _("Clicks"), [numbers.clicks for _start, numbers in rows], ""),
        ("conversions", _("Conversions"), [numbers.conversions for _start, numbers in rows], ""),
    ]
    for code in sorted(result.total.payouts)[:_CURRENCIES]:
        title = _("Commission (approved), %(currency)s") % {"currency": code}
        payouts = [numbers.payouts.get(code, Decimal(0)) for _start, numbers in rows]
        lines.append((f"payout-{len(lines)}", title, [*payouts], code))
    widest = max(_scale_width({title: line}, code) for _name, title, line, code in lines)
    return [
        (title, _chart(name, title, labels, {title: line}, "", code, widest))
        for name, title, line, code in lines
    ]


def _drawing(
    texts: Sequence[str],
    series: Mapping[str, Sequence[Number | None]],
    scale: list[float],
    currency: str,
    scale_width: float,
) -> dict[str, object]:
    """Return the positions of scale, bars, labels and legend, as the template's variables."""
    shown = [Truncator(text).chars(_LABEL_LENGTH) for text in texts]
    label = max(map(len, shown)) * _LETTER
    places = max(_PLACES, len(texts))
    before = (places - len(texts)) / 2
    # The distance of the first and last bars from the edge, so that their labels fit.
    outer = label / 2 - (before + 0.5) * (_WIDTH - scale_width - label) / places
    left, right = round(max(scale_width + _GAP, outer)), round(max(_GAP, outer))
    place = (_WIDTH - left - right) / places
    bar = 0.8 * place / len(series)
    legend = list(map(_printable, series)) if len(series) > 1 else []
    bottom = _HEIGHT - 2 * _GAP - _TEXT - ceil(len(legend) / _LEGEND_COLUMNS) * (_TEXT + _GAP)

    def y(value: Number) -> float:
        share = (scale[-1] - float(value)) / (scale[-1] - scale[0])
        return round(_GAP + share * (bottom - _GAP), 2)

    def x(place_number: float) -> float:
        return round((before + place_number) * place, 2)

    return {
        "left": left,
        "plot_width": _WIDTH - left - right,
        "ticks": [
            (y(value), text, not value)
            for value, text in zip(scale, _ticks(scale, currency), strict=True)
        ],
        "labels": [
            (x(number + 0.5), text)
            for number, text in enumerate(shown)
            if number % ceil((label + 2 * _GAP) / place) == 0
        ],
        "label_y": bottom + _TEXT + _GAP,
        "bar_width": round(0.95 * bar, 2),
        "series": [
            [
                {
                    "x": round(x(number + 0.1) + index * bar, 2),
                    "y": y(max(value, 0)),
                    "height": round(abs(y(0) - y(value)), 2),
                    "text": ", ".join([text, _printable(series_name)] if legend else [text])
                    + f": {_value(value, currency)}",
                }
                for number, (text, value) in enumerate(zip(texts, line, strict=True))
                if value is not None
            ]
            for index, (series_name, line) in enumerate(series.items())
        ],
        "legend": [
            (
                index % _LEGEND_COLUMNS * _WIDTH / _LEGEND_COLUMNS,
                bottom + 2 * _TEXT + (index // _LEGEND_COLUMNS) * (_TEXT + _GAP),
                Truncator(text).chars(_LABEL_LENGTH),
            )
            for index, text in enumerate(legend)
        ],
    }


def _scale(series: Mapping[str, Sequence[Number | None]], currency: str) -> list[float]:
    """Return the ticks, at round numbers: they include 0 and enclose all values, if any."""
    values = [value for line in series.values() for value in line if value is not None]
    if not values:
        return []
    low, high = min([0, *map(float, values)]), max([0, *map(float, values)])
    high = high if low or high else 1  # if all values are 0
    rough = (high - low) / 4
    power = 10 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    if currency:
        step = max(step, float(smallest_unit(currency)))
    elif all(isinstance(value, int) for value in values):
        step = max(step, 1)  # Clicks have no fractions.
    return [step * number for number in range(floor(low / step), ceil(high / step) + 1)]


def _summary(
    texts: Sequence[str], series: Mapping[str, Sequence[Number | None]], currency: str
) -> str:
    sentences = []
    for legend, line in series.items():
        points = [
            (value, text) for value, text in zip(line, texts, strict=True) if value is not None
        ]
        if points:
            highest, label = max(points, key=lambda point: point[0])
            sentence = _("From %(first)s to %(last)s, highest value %(most)s (%(when)s).") % {
                "first": texts[0],
                "last": texts[-1],
                "most": _value(highest, currency),
                "when": label,
            }
            sentences.append(f"{legend}: {sentence}" if len(series) > 1 else sentence)
    return " ".join(sentences) or _("No data for this period")


def _value(value: Number, currency: str) -> str:
    # A float as it is written: 0.1 is one tenth.
    return _printable(money(Decimal(str(value)), currency)) if currency else number_format(value)


def _ticks(scale: Sequence[float], currency: str) -> list[str]:
    """Format the numbers of a scale alike, and without rounding errors of floats."""
    numbers = [Decimal(f"{value:.10g}") for value in scale]
    if currency and any(number % 1 for number in numbers):
        return [figure(number, currency) for number in numbers]
    return [number_format(number) for number in numbers]


def _scale_width(series: Mapping[str, Sequence[Number | None]], currency: str) -> float:
    ticks = _ticks(_scale(series, currency), currency)
    return max(map(len, ticks), default=0) * _LETTER


def _printable(text: str) -> str:
    return _UNWRITABLE.sub("", str(text))
