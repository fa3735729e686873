"""
Numbers as a picture, drawn on the server: SVG to stand in a page, and to need nothing but the page.

pygal draws, for pages that allow a chart of its own scripts and styles. Ours do not: a strict
Content-Security-Policy forbids both. So of what it has drawn no more is kept than shapes, texts and
classes, and ``static/affiliations/charts.css`` says how these look, in light and dark.

Who cannot see a picture gets its title and a summary; the numbers belong in a table beside it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from math import ceil, floor, log10
from typing import Any
from xml.etree import ElementTree

from django.utils.formats import date_format, number_format
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from affiliations.amounts import money
from affiliations.periods import Step
from affiliations.reports import Report

Number = int | float | Decimal

#: In the units of the drawing. It is scaled: a phone has 330 px for it, ``charts.css`` allows 520,
#: and texts of 14 units are easy to read at either.
_WIDTH, _HEIGHT, _TEXT, _GAP = 400, 210, 14, 6
#: How wide a letter is taken to be.
_LETTER = 0.6 * _TEXT
#: So many letters of a label are written below its bar.
_LONGEST = 16
#: So many currencies have a chart over time.
_CURRENCIES = 4
#: So many bars have room at least.
_FEWEST = 5

#: What is kept of the drawing.
_TAGS = {"g", "path", "rect", "text"}
_ATTRIBUTES = {"class", "d", "height", "transform", "width", "x", "y"}
#: What no XML can hold, and what turns the direction of the texts that follow.
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
    Draw a bar for each label and series, and return the ``<svg>`` element.

    ``name`` tells the drawing from others on the page: a word of yours, never one from outside.
    ``labels`` are days, written in the reader's format, or texts. Each of ``series`` has a value
    for each label, or ``None`` for no bar, and a name for the legend, which one alone has not.
    With a ``currency`` they are amounts of it. Without a ``description`` a summary is told.

    Texts may be anybody's. The page needs ``affiliations/charts.css``.
    """
    texts = [_label(label) for label in labels]
    drawn = ElementTree.Element(
        "svg",
        {
            "class": "aff-chart",
            "role": "img",
            "aria-labelledby": f"aff-chart-{name}-title aff-chart-{name}-description",
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "xmlns": "http://www.w3.org/2000/svg",
        },
    )
    told = description or _summary(texts, series, currency)
    for tag, text in (("title", title), ("desc", told)):
        suffix = "description" if tag == "desc" else tag
        element = ElementTree.SubElement(drawn, tag, {"id": f"aff-chart-{name}-{suffix}"})
        element.text = _written(text)
    for child in _draw(texts, series, currency):
        _keep(child, drawn)
    # What ElementTree writes is escaped; see above for what is kept.
    return mark_safe(ElementTree.tostring(drawn, encoding="unicode"))  # noqa: S308 -- escaped


def over_time(step: Step, found: Report) -> list[tuple[str, SafeString]]:
    """
    Draw what a report has of each day, week or month: the title and the drawing of each chart.

    Clicks and conversions, and the payout in each currency, which is never added to another. Of
    many currencies the first few have a chart; a table has all.
    """
    rows = [(start, numbers) for (start, _key), numbers in found.rows.items() if start]
    labels = [when(step, start) if step is Step.MONTH else start for start, _numbers in rows]
    lines: list[tuple[str, str, list[Number | None], str]] = [
        ("clicks", _("Clicks"), [numbers.clicks for _start, numbers in rows], ""),
        ("conversions", _("Conversions"), [numbers.conversions for _start, numbers in rows], ""),
    ]
    for code in found.currencies[:_CURRENCIES]:
        title = _("Payout, %(currency)s") % {"currency": code}
        payouts = [numbers.payouts.get(code, Decimal(0)) for _start, numbers in rows]
        lines.append((f"payout-{len(lines)}", title, [*payouts], code))
    return [
        (title, bars(name, title, labels, {title: line}, currency=code))
        for name, title, line, code in lines
    ]


def when(step: Step, start: date) -> str:
    """Write which day, week or month it is that begins with a day."""
    if step is Step.MONTH:
        return date_format(start, "YEAR_MONTH_FORMAT")
    first = date_format(start, "SHORT_DATE_FORMAT")
    if step is Step.DAY:
        return first
    return f"{first} – {date_format(start + timedelta(days=6), 'SHORT_DATE_FORMAT')}"


def _draw(
    texts: Sequence[str], series: Mapping[str, Sequence[Number | None]], currency: str
) -> Iterator[Any]:
    """Let pygal draw, and return the parts of the drawing."""
    scale = _scale([value for line in series.values() for value in line if value is not None])
    # A few bars would be as broad as walls.
    aside = max(0, _FEWEST - len(texts)) // 2
    shown = [Truncator(text).chars(_LONGEST) for text in texts]
    label = max(map(len, shown), default=0) * _LETTER
    ticks = max(len(_tick(value)) for value in scale) * _LETTER
    # As many labels as there is room for, each in the middle below its bar.
    places = len(texts) + 2 * aside
    place = (_WIDTH - ticks - max(label, ticks)) / (places or 1)
    step = ceil((label + 2 * _GAP) / place) or 1
    behind = aside + (len(texts) - 1) % step
    left = max(_GAP, round(label / 2 - (aside + 0.5) * place - ticks))
    right = max(_GAP, round(label / 2 - (behind + 0.5) * place))
    pygal = _pygal()
    chart = pygal.Bar(
        width=_WIDTH,
        height=_HEIGHT,
        margin=_GAP,
        margin_left=left,
        margin_right=right,
        spacing=_GAP,
        style=pygal.style.Style(label_font_size=_TEXT, legend_font_size=_TEXT),
        x_labels=[
            *[""] * aside,
            *("" if number % step else text for number, text in enumerate(shown)),
            *[""] * aside,
        ],
        truncate_label=-1,
        y_labels=scale,
        value_formatter=_tick,
        show_y_labels=any(series.values()),
        show_legend=len(series) > 1,
        legend_at_bottom=True,
        legend_box_size=_TEXT - 3,
        no_data_text=_("Nothing to show"),
        js=[],
        css=[],
    )
    for legend, line in series.items():
        several = _written(legend) if len(series) > 1 else ""
        chart.add(
            _written(legend),
            [
                *[None] * aside,
                *(
                    None
                    if value is None
                    else {"value": float(value), "label": _told(text, several, value, currency)}
                    for text, value in zip(texts, line, strict=True)
                ),
            ],
        )
    return iter(chart.render_tree())


@cache
def _pygal() -> Any:
    """
    Import pygal for the first chart: that takes 40 ms, and most processes never draw one.

    It leaves a finder of modules behind, for maps that others add. Python 3.12 takes no notice of
    one of its kind; 3.10 and 3.11 warn of it, from then on, at each import that finds nothing.
    """
    import pygal.style

    sys.meta_path[:] = [
        finder for finder in sys.meta_path if type(finder) is not pygal.PluginImportFixer
    ]
    return pygal


def _scale(values: Sequence[Number]) -> list[float]:
    """Return round numbers, from 0 and from below the least value to the greatest or beyond it."""
    low, high = min([0, *map(float, values)]), max([0, *map(float, values)])
    high = high if low or high else 1  # nothing has happened, which is told by a scale too
    rough = (high - low) / 4
    power = 10 ** floor(log10(rough))
    step = next(power * round_ for round_ in (1, 2, 5, 10) if power * round_ >= rough)
    if all(isinstance(value, int) for value in values):
        step = max(step, 1)  # there is no fraction of a click
    return [step * number for number in range(floor(low / step), ceil(high / step) + 1)]


def _keep(drawn: Any, parent: ElementTree.Element) -> None:
    """Copy of a part of the drawing what may stand in a page."""
    if drawn.tag == "desc" and drawn.get("class") == "label":
        # A browser shows it where the pointer stands.
        ElementTree.SubElement(parent, "title").text = drawn.text
    if drawn.tag not in _TAGS or _is_idle(drawn):
        return
    kept = {name: value for name, value in drawn.attrib.items() if name in _ATTRIBUTES}
    copy = ElementTree.SubElement(parent, drawn.tag, kept)
    copy.text = drawn.text
    for child in drawn:
        _keep(child, copy)
    if drawn.tag == "g" and not len(copy):
        parent.remove(copy)


def _is_idle(drawn: Any) -> bool:
    """Tell whether nothing of it is to be seen, as of the guide of a label that is left out."""
    name = drawn.get("class", "")
    return name in ("background", "tooltip") or (name == "guides" and not drawn.findtext("text"))


def _summary(
    texts: Sequence[str], series: Mapping[str, Sequence[Number | None]], currency: str
) -> str:
    """Say in a few sentences what there is to see."""
    sentences = []
    for legend, line in series.items():
        found = [
            (value, text) for value, text in zip(line, texts, strict=True) if value is not None
        ]
        if not found:
            continue
        most, when = max(found, key=lambda pair: pair[0])
        told = _("From %(first)s to %(last)s, at most %(most)s (%(when)s).")
        sentences.append(
            (f"{legend}: " if len(series) > 1 else "")
            + told
            % {
                "first": texts[0],
                "last": texts[-1],
                "most": _value(most, currency),
                "when": when,
            }
        )
    return " ".join(sentences) or _("Nothing to show")


def _label(label: date | str) -> str:
    return _written(
        date_format(label, "SHORT_DATE_FORMAT") if isinstance(label, date) else str(label)
    )


def _told(text: str, legend: str, value: Number, currency: str) -> str:
    return ", ".join(filter(None, [text, legend])) + f": {_value(value, currency)}"


def _value(value: Number, currency: str) -> str:
    if currency:
        return _written(money(Decimal(value), currency))
    return number_format(value)


def _tick(value: float) -> str:
    """Write a number of the scale, without the noise of floating point."""
    short = f"{value:.10g}"
    return number_format(Decimal(short))


def _written(text: str) -> str:
    return _UNWRITABLE.sub("", str(text))
