"""A chart, as a page gets it and as somebody reads it who may not see it."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from django.test.utils import override_settings
from django.utils import translation

from affiliations.dates import Interval
from affiliations.reports import charts
from affiliations.reports.numbers import Numbers, ReportResult

SVG = "{http://www.w3.org/2000/svg}"
CSS = Path(charts.__file__).parent.parent / "static" / "affiliations" / "charts.css"

HOSTILE = [
    "</title><script>alert(1)</script>",
    '" onload="alert(1)',
    "<img src=x onerror=alert(1)>",
    "]]><b>&amp;&lt;",
    "{{ 7 }} {% 7 %}",
    "a\x00b\x01\x1b\x7f\x9f\ufffe\uffff",
    "\ud800 half a pair \udfff",
    "\u202egnp.exe\u202c \u2066x\u2069",
    "x" * 2000,
    "",
]


def days(count: int, first: date = date(2026, 11, 1)) -> list[date | str]:
    return [first + timedelta(days=number) for number in range(count)]


def drawn(*values: Any, labels: list[date | str] | None = None, **options: Any) -> Any:
    """Draw one series, and parse what comes out."""
    labels = days(len(values)) if labels is None else labels
    return parsed(charts.bars("x", "Clicks per day", labels, {"Clicks": values}, **options))


def parsed(svg: str) -> Any:
    return ElementTree.fromstring(svg)


def texts(svg: Any, place: str) -> list[str]:
    """Return what is written in the groups of a class."""
    groups = [group for group in svg.iter(f"{SVG}g") if place in group.get("class", "").split()]
    return [text.text or "" for group in groups for text in group.iter(f"{SVG}text")]


def told(svg: Any) -> list[str | None]:
    """Return what is told of each bar under the pointer."""
    return [title.text for title in svg.findall(f".//{SVG}rect/{SVG}title")]


def heights(svg: Any) -> list[float]:
    return [
        float(rect.get("height")) for rect in svg.iter(f"{SVG}rect") if rect.get("class") == "bar"
    ]


def everywhere(text: str, currency: str = "EUR") -> str:
    """Draw with a text wherever a text may stand."""
    return charts.bars(
        "x",
        text,
        [text, text],
        {text: [1, 2], f"{text} ": [3, None]},
        description=text,
        currency=currency,
    )


# What may stand in a page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_there_is_nothing_but_shapes_texts_and_classes_whatever_the_texts_are(text: str) -> None:
    svg = parsed(everywhere(text, currency=text))
    tags = {element.tag.removeprefix(SVG) for element in svg.iter()}
    assert tags <= {"svg", "title", "desc", "g", "path", "rect", "text"}
    attributes = {name for element in svg.iter() for name in element.attrib}
    shape = {"d", "x", "y", "dx", "dy", "width", "height", "transform", "viewBox"}
    assert attributes <= {"id", "class", "role", "aria-labelledby"} | shape


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_becomes_a_class_an_id_or_anything_else_but_text(text: str) -> None:
    harmless = parsed(everywhere("x"))
    hostile = parsed(everywhere(text))
    for name in ("id", "class", "aria-labelledby", "role"):
        assert {element.get(name) for element in hostile.iter()} <= {
            element.get(name) for element in harmless.iter()
        }


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_drawn_can_be_sent_and_holds_no_characters_that_turn_a_page(text: str) -> None:
    svg = everywhere(text, currency=text)
    svg.encode()
    assert not set(svg) & set("\x00\x01\x1b\x7f\x9f\u202e\u202c\u2066\u2069\ufffe\uffff")


def test_texts_in_other_scripts_stay_as_they_are() -> None:
    texts_ = "Bjørns Boghandel 日本 العربية 👩\u200d🚀 नमस्ते"
    assert parsed(charts.bars("x", texts_, ["1"], {"Clicks": [1]}))[0].text == texts_


def test_nothing_is_fetched_and_nothing_runs() -> None:
    svg = charts.bars("x", "Clicks", days(3), {"Clicks": [1, 2, 3], "More": [1, 2, 3]})
    assert svg.count("http") == 1
    assert 'xmlns="http://www.w3.org/2000/svg"' in svg
    assert not {word for word in ("<script", "style", "href", "url(", "<!--", "<?") if word in svg}


def test_the_style_sheet_fetches_nothing_either() -> None:
    assert not {word for word in ("url(", "@import", "http") if word in CSS.read_text()}


def test_the_style_sheet_has_a_colour_for_each_of_five_series() -> None:
    svg = charts.bars("x", "x", ["1"], {str(number): [number] for number in range(5)})
    css = CSS.read_text()
    for number in range(5):
        assert f"color-{number}" in svg
        assert f".color-{number} " in css


def test_the_same_numbers_are_always_the_same_drawing() -> None:
    assert everywhere("x") == everywhere("x")


def test_a_template_shows_it_as_it_is() -> None:
    assert hasattr(everywhere("x"), "__html__")


# What somebody reads who may not see it


def test_it_is_an_image_with_a_title_and_a_description() -> None:
    svg = drawn(1, 2, description="The story of two days")
    assert svg.get("role") == "img"
    title, description = svg[0], svg[1]
    assert (title.tag, title.text) == (f"{SVG}title", "Clicks per day")
    assert (description.tag, description.text) == (f"{SVG}desc", "The story of two days")
    assert svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"


def test_two_charts_of_one_page_share_no_id() -> None:
    ids = [
        element.get("id")
        for name in ("clicks", "conversions")
        for element in parsed(charts.bars(name, "x", ["1"], {"x": [1]})).iter()
        if element.get("id")
    ]
    assert len(set(ids)) == len(ids) == 4


def test_without_a_description_it_says_what_there_is_to_see() -> None:
    assert drawn(3, 1200, 7)[1].text == (
        "From 11/01/2026 to 11/03/2026, highest value 1200 (11/02/2026)."
    )


def test_each_series_has_its_sentence_but_one_without_numbers() -> None:
    svg = charts.bars("x", "x", ["a", "b"], {"A": [1, None], "B": [None, None], "C": [2, 3]})
    assert parsed(svg)[1].text == (
        "A: From a to b, highest value 1 (a). C: From a to b, highest value 3 (b)."
    )


def test_nothing_at_all_is_said_and_shown() -> None:
    svg = drawn()
    assert svg[1].text == "No data for this period"
    assert [text.text for text in svg.iter(f"{SVG}text")] == ["No data for this period"]


def test_each_bar_says_its_day_and_number() -> None:
    assert told(drawn(3, None, 1200)) == ["11/01/2026: 3", "11/03/2026: 1200"]


def test_each_of_several_bars_says_its_series_too() -> None:
    svg = charts.bars("x", "x", ["a"], {"approved": [1], "pending": [2]})
    assert told(parsed(svg)) == ["a, approved: 1", "a, pending: 2"]
    assert texts(parsed(svg), "legend") == ["approved", "pending"]


def test_one_series_needs_no_legend() -> None:
    assert texts(drawn(1, 2), "legend") == []


def test_amounts_are_written_with_their_currency_and_its_decimals() -> None:
    values = Decimal("1234.5000"), 3, Decimal("0.125"), Decimal("1E+3")
    assert [text.partition(": ")[2] for text in told(drawn(*values, currency="EUR")) if text] == [
        "1234.50\xa0EUR",
        "3.00\xa0EUR",
        "0.13\xa0EUR",
        "1000.00\xa0EUR",
    ]
    assert told(drawn(Decimal(1234), currency="JPY")) == ["11/01/2026: 1234\xa0JPY"]
    assert told(drawn(0.1, currency="EUR")) == ["11/01/2026: 0.10\xa0EUR"]


def test_days_and_numbers_are_written_as_the_reader_writes_them() -> None:
    with translation.override("da"), override_settings(USE_THOUSAND_SEPARATOR=True):
        svg = drawn(Decimal("1234.5"), currency="DKK")
        assert told(svg) == ["01.11.2026: 1.234,50\xa0DKK"]
        assert texts(svg, "x") == ["01.11.2026"]
        assert texts(svg, "y") == ["0", "500", "1.000", "1.500"]


# What is seen


def test_a_bar_is_as_high_as_its_number() -> None:
    one, two, four = heights(drawn(100, 200, 400))
    assert two == pytest.approx(2 * one)
    assert four == pytest.approx(4 * one)


def test_no_number_is_no_bar() -> None:
    assert len(heights(drawn(None, 2, None))) == 1


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0, 0], ["0", "1"]),
        ([1], ["0", "1"]),
        ([3, 2], ["0", "1", "2", "3"]),
        ([7], ["0", "2", "4", "6", "8"]),
        ([1390], ["0", "500", "1000", "1500"]),
        ([1_000_000], ["0", "500000", "1000000"]),
        ([Decimal("0.3")], ["0", "0.1", "0.2", "0.3"]),
        ([0.05], ["0", "0.02", "0.04", "0.06"]),
        ([-30, 60], ["-50", "0", "50", "100"]),
        ([-4, None], ["-4", "-3", "-2", "-1", "0"]),
    ],
)
def test_the_scale_has_round_numbers_and_a_zero_and_no_fraction_of_a_click(
    values: list[Any], scale: list[str]
) -> None:
    assert texts(drawn(*values), "y") == scale


@pytest.mark.parametrize("language", ["en", "da", "ja"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 13, 30, 31, 90, 366])
def test_the_labels_below_the_bars_do_not_touch_and_stay_in_the_picture(
    count: int, language: str
) -> None:
    with translation.override(language):
        svg = drawn(*[1234] * count)
    left = next(
        float(group.get("transform").partition("(")[2].partition(",")[0])
        for group in svg.iter(f"{SVG}g")
        if group.get("class") == "plot"
    )
    placed = [
        (left + float(text.get("x")), len(text.text or "") * 8.3)
        for group in svg.iter(f"{SVG}g")
        if group.get("class") == "axis x"
        for text in group.iter(f"{SVG}text")
    ]
    assert placed[0][0] - placed[0][1] / 2 >= 0
    assert placed[-1][0] + placed[-1][1] / 2 <= float(svg.get("viewBox").split()[2])
    for (x, width), (next_x, next_width) in pairwise(placed):
        assert next_x - x > (width + next_width) / 2


def test_a_long_label_is_cut_below_the_bar_and_whole_under_the_pointer() -> None:
    svg = drawn(1, labels=["A campaign with a long name"])
    assert texts(svg, "x") == ["A campaign with…"]
    assert told(svg) == ["A campaign with a long name: 1"]


def test_the_only_bar_is_no_wall() -> None:
    svg = drawn(1)
    [bar] = svg.iter(f"{SVG}rect")
    assert float(bar.get("width")) < 80


# What is seen of several charts above each other


def test_all_charts_of_a_page_have_the_same_days_at_the_same_places() -> None:
    paid = {"EUR": Decimal("123456789.01"), "JPY": Decimal(7), "KWD": Decimal("0.125")}
    rows: dict[Any, Numbers] = {
        (day, None): Numbers(clicks=number, payouts=paid) for number, day in enumerate(days(30))
    }
    drawings = charts.over_time(Interval.DAY, ReportResult(rows, Numbers(payouts=paid)))
    assert len(drawings) == 5
    assert len({tuple(places(parsed(svg))) for _title, svg in drawings}) == 1


def places(svg: Any) -> list[Any]:
    """Return where the bars begin, and each label below them."""
    [plot] = [group for group in svg.iter(f"{SVG}g") if group.get("class") == "plot"]
    [axis] = [group for group in svg.iter(f"{SVG}g") if group.get("class") == "axis x"]
    return [plot.get("transform"), *((text.get("x"), text.text) for text in axis)]


@pytest.mark.parametrize(
    ("value", "currency", "scale"),
    [
        ("1", "EUR", ["0.00", "0.50", "1.00"]),
        ("0.01", "EUR", ["0.00", "0.01"]),
        ("1", "JPY", ["0", "1"]),
        ("0.25", "KWD", ["0.000", "0.100", "0.200", "0.300"]),
        ("1390", "EUR", ["0", "500", "1000", "1500"]),
    ],
)
def test_a_scale_of_money_has_no_other_decimals_than_its_currency(
    value: str, currency: str, scale: list[str]
) -> None:
    assert texts(drawn(Decimal(value), currency=currency), "y") == scale
