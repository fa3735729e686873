"""The end of the month, as a colleague sees it in the Admin."""

from __future__ import annotations

import csv
import io
import re
from datetime import date, datetime, timedelta
from datetime import timezone as tz
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from affiliations.admin import balances as pages
from affiliations.conversions import adjustments, decisions
from affiliations.models import Adjustment, Conversion, Settlement
from tests.factories import ConversionFactory, PartnerFactory, UserFactory
from tests.test_admin import allowed, shown, url
from tests.test_settlements import earned, settle, settled, several

pytestmark = pytest.mark.django_db

ADD = "/admin/affiliations/settlement/add/"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "{{ settings.SECRET_KEY }}",
    "\u202egnp.exe",
    "x" * 255,
    "%s %(x)s {0}",
]


@pytest.fixture
def staff() -> Client:
    """Log in somebody who may do everything."""
    client = Client()
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def asked(conversion: Conversion, **query: Any) -> str:
    """Return the address of what is open with a partner in the currency of a conversion."""
    partner, currency = conversion.partner, conversion.payout_currency
    values = {"partner": partner.pk, "currency": currency, "until": ""} | query
    return ADD + "?" + "&".join(f"{name}={value}" for name, value in values.items())


def seen(response: Any, **fields: Any) -> dict[str, Any]:
    """Fill in the form of a page, as it is shown."""
    form = response.context["form"]
    values = {field.name: field.value() for field in form if field.value() is not None}
    return values | fields


def address(row: Any, page: str) -> str:
    return reverse(f"admin:affiliations_{row._meta.model_name}_{page}", args=[row.pk])


class TestWhatIsOpen:
    def test_is_listed_by_partner_and_currency_with_a_link_to_settle_it(
        self, staff: Client
    ) -> None:
        partner = PartnerFactory(name="Bjørns Boghandel")
        earned("10", visitor__partner=partner)
        earned("7", "SEK", visitor__partner=partner)
        earned("3", visitor__partner__name="Annas Aviser")
        page = staff.get(ADD, {"until": ""})
        text = shown(page)
        each = (
            "Annas Aviser , EUR 1 3.00 EUR 3.00 EUR",
            "Boghandel , EUR 1 10.00 EUR 10.00 EUR",
            "7.00 SEK",
        )
        assert re.search(" .*".join(each), text)
        links = re.findall(r'href="([^"]*currency=[^"]*)"', page.text)
        assert len(links) == 3
        assert "10.00 EUR" in shown(staff.get(ADD + links[1].replace("&amp;", "&")))

    def test_is_asked_for_before_this_month_unless_somebody_says_otherwise(
        self, staff: Client
    ) -> None:
        earned(decided_on=timezone.now())
        assert "There is no unpaid commission" in shown(staff.get(ADD))
        assert "10.00 EUR" in shown(staff.get(ADD, {"until": ""}))
        last = timezone.localdate().replace(day=1) - timedelta(days=1)
        assert f'value="{last}"' in staff.get(ADD).text

    def test_begins_and_ends_at_midnight_where_the_reader_is(
        self, staff: Client, settings: Any
    ) -> None:
        settings.TIME_ZONE = "Europe/Copenhagen"
        earned(decided_on=datetime(2026, 10, 31, 22, 59, tzinfo=tz.utc))
        earned(decided_on=datetime(2026, 10, 31, 23, 0, tzinfo=tz.utc))
        assert len(staff.get(ADD, {"until": "2026-10-31"}).context["dues"]) == 1
        assert len(staff.get(ADD, {"until": "2026-11-01"}).context["dues"]) == 2

    def test_is_shown_of_one_partner_from_their_page(self, staff: Client) -> None:
        mine, _other = earned(), earned("3")
        response = staff.get(address(mine.partner, "settle"), follow=True)
        assert response.redirect_chain == [(f"{ADD}?partner={mine.partner.pk}", 302)]
        page = staff.get(ADD, {"partner": mine.partner.pk, "until": ""})
        assert [due.partner for due in page.context["dues"]] == [mine.partner]
        assert f'<input type="hidden" name="partner" value="{mine.partner.pk}"' in page.text

    @pytest.mark.parametrize(
        "query",
        [
            {"until": "yesterday"},
            {"until": "2026-02-30"},
            {"until": "0001-01-01"},
            {"until": "9999-12-31"},
            {"until": "", "partner": "17"},
            {"until": "", "partner": "x"},
            {"until": "", "partner": "9" * 30},
            {"until": "", "partner": "\0"},
            {"until": "", "partner": "17", "currency": "EUR"},
            {"until": "", "currency": "EURO"},
            {"until": "\0", "currency": "\0"},
        ],
        ids=str,
    )
    def test_answers_whatever_stands_in_the_address(
        self, staff: Client, query: dict[str, str]
    ) -> None:
        earned()
        assert staff.get(ADD, query).status_code == 200
        assert staff.post(f"{ADD}?until=x", query).status_code == 200

    @pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/New_York"])
    @pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
    def test_says_that_no_time_zone_can_reckon_with_a_day(
        self, staff: Client, settings: Any, zone: str, day: str
    ) -> None:
        settings.TIME_ZONE = zone
        conversion = earned()
        for address in (f"{ADD}?until={day}", asked(conversion, until=day)):
            assert "Ensure this value is" in shown(staff.get(address))

    def test_is_until_a_day_has_ended_where_the_site_is(self, staff: Client, settings: Any) -> None:
        settings.TIME_ZONE = "America/New_York"
        conversion = earned(decided_on=datetime(2026, 10, 31, 12, tzinfo=tz.utc))
        with timezone.override("Europe/Copenhagen"):
            page = staff.get(asked(conversion, until="2026-10-31"))
            assert "Approved until Oct. 31, 2026" in shown(page)
            staff.post(asked(conversion, until="2026-10-31"), seen(page))
        settlement = Settlement.objects.get()
        assert settlement.before == datetime(2026, 11, 1, 4, tzinfo=tz.utc)
        assert settlement.until == date(2026, 10, 31)
        assert "Approved until Oct. 31, 2026" in shown(staff.get(address(settlement, "statement")))

    def test_of_many_partners_is_cut(self, staff: Client, monkeypatch: Any) -> None:
        for _ in range(3):
            earned()
        monkeypatch.setattr(pages, "AT_ONCE", 2)
        page = staff.get(ADD, {"until": ""})
        assert len(page.context["dues"]) == 2
        assert "Showing the first 2 of 3 balances." in shown(page)
        assert "EUR 2 20.00 EUR 3 30.00 EUR" in shown(page)

    @pytest.mark.parametrize("number", [2, 30])
    def test_costs_as_much_for_many_as_for_few(self, staff: Client, number: int) -> None:
        for _ in range(number):
            decided = settled()
            decisions.decide(decided, "rejected")
            earned(visitor__partner=decided.partner)
        with CaptureQueriesContext(connection) as queries:
            page = staff.get(ADD, {"until": ""})
        assert len(page.context["dues"]) == number
        # The session, the user, two of the balances, the partners, two of the next number.
        assert len(queries) == 7


class TestSettling:
    def test_shows_what_it_takes_and_takes_it_when_that_is_confirmed(self, staff: Client) -> None:
        conversion = earned("12.50", reference="A17", amount=125, currency="EUR")
        page = staff.get(asked(conversion))
        text = shown(page)
        assert "1 conversion 12.50 EUR To be paid 12.50 EUR" in text
        assert "A17" in text
        assert not Settlement.objects.exists()
        response = staff.post(asked(conversion), seen(page, reference="2026-117"), follow=True)
        settlement = Settlement.objects.get()
        assert response.redirect_chain == [(address(settlement, "statement"), 302)]
        assert f"Created a payout statement: 12.50 EUR for {conversion.partner.name}." in shown(
            response
        )
        assert (settlement.reference, settlement.total) == ("2026-117", Decimal("12.5"))
        assert settlement.created_by is not None
        assert settlement.before.isoformat() == seen(page)["until"]

    def test_leaves_an_entry_in_the_history(self, staff: Client) -> None:
        conversion = earned()
        staff.post(asked(conversion), seen(staff.get(asked(conversion))))
        entry = LogEntry.objects.get()
        assert entry.is_addition()
        assert entry.get_edited_object() == Settlement.objects.get()
        assert entry.user == Settlement.objects.get().created_by

    def test_twice_settles_once_and_says_so(self, staff: Client) -> None:
        conversion = earned()
        filled = seen(staff.get(asked(conversion)))
        staff.post(asked(conversion), filled)
        page = staff.post(asked(conversion), filled)
        assert "No statement was created" in shown(page)
        assert "This partner has no unpaid commission in EUR." in shown(page)
        assert Settlement.objects.count() == 1

    def test_takes_nothing_that_was_not_shown(self, staff: Client) -> None:
        conversion = earned()
        filled = seen(staff.get(asked(conversion)))
        earned("5", visitor__partner=conversion.partner)
        page = staff.post(asked(conversion), filled)
        assert "No statement was created" in shown(page)
        assert "15.00 EUR" in shown(page)
        staff.post(asked(conversion), seen(page))
        assert Settlement.objects.get().total == 15

    @pytest.mark.parametrize(
        "changed",
        [
            {"until": ""},
            {"until": "yesterday"},
            {"until": "2026-13-45T00:00:00+00:00"},
            {"until": "2026-11-01T00:00:00"},
            {"until": "\0"},
            {"until": "0001-01-01T00:00:00+14:00"},
            {"until": "9999-12-31T23:00:00-14:00"},
            {"earned": "NaN"},
            {"earned": "1e400"},
            {"earned": "1e9999999"},
            {"adjusted": "-1e9999999"},
            {"adjustment_count": "1e9999999"},
            {"conversion_count": "1" * 5000},
            {"adjusted": "x"},
            {"reference": "x" * 256},
            {"reference": "\0"},
        ],
        ids=lambda changed: str(changed)[:40],
    )
    def test_survives_whatever_is_sent(self, staff: Client, changed: dict[str, str]) -> None:
        conversion = earned()
        filled = seen(staff.get(asked(conversion)))
        page = staff.post(asked(conversion), filled | changed)
        assert "No statement was created" in shown(page)
        assert not Settlement.objects.exists()

    def test_of_corrections_only_says_what_is_owed(self, staff: Client) -> None:
        conversion = settled()
        decisions.decide(conversion, "rejected", reason="Returned")
        page = staff.get(asked(conversion))
        assert "The partner owes 10.00 EUR" in shown(page)
        assert "it is deducted from the partner’s next payouts." in shown(page)
        assert "Adjustment: rejected Returned" in shown(page)
        page = staff.post(asked(conversion), seen(page), follow=True)
        assert "The partner owes 10.00 EUR" in shown(page)
        assert "It is not carried over automatically" in shown(page)

    @pytest.mark.parametrize("number", [10, 1000])
    def test_costs_as_much_for_many_lines_as_for_few(self, staff: Client, number: int) -> None:
        page_of = asked(several(PartnerFactory(), number)[0])
        with CaptureQueriesContext(connection) as queries:
            page = staff.get(page_of)
        assert len(page.context["lines"]) == number
        # The session, the user, the partner, two of the balance, two of the lines.
        assert len(queries) == 7


class TestTheStatement:
    def test_shows_every_line_and_the_sums(self, staff: Client) -> None:
        earlier = settled(reference="A16", trigger="Order placed")
        decisions.decide(earlier, "rejected")
        later = earned(
            "4", reference="A17", visitor__partner=earlier.partner, visitor__click_id="c-1"
        )
        settlement = settle(earlier.partner, reference="2026-118")
        page = staff.get(address(settlement, "statement"))
        text = shown(page)
        assert "2026-118" in text
        assert "1 conversion 4.00 EUR 1 adjustment -10.00 EUR The partner owes 6.00 EUR" in text
        assert "Adjustment: rejected Rejected after it was in a statement. " in text
        assert text.index("A17 c-1") < text.index("A16")
        assert url(later) in page.text

    def test_is_downloaded_as_csv(self, staff: Client) -> None:
        conversion = settled(
            "12.50",
            reference="=A17",
            amount=125,
            currency="SEK",
            visitor__click_id="c-1",
            created_on=datetime(2026, 10, 5, 12, 30, tzinfo=tz.utc),
        )
        adjustments.adjust(conversion, payout=Decimal("-2.5"), reason="-1 piece")
        second = settle(conversion.partner)
        response = staff.get(address(conversion.settlement, "download"))
        assert response.streaming
        uid, number = conversion.partner.uid, conversion.settlement.serial_number
        assert response["Content-Disposition"] == (
            f'attachment; filename="statement-{number}-{uid}.csv"'
        )
        header, line, total = read(response)
        assert header == ["Payout statement", "Partner uid", "Date", "Description", "Trigger",
                          "Reference", "Click id", "Amount", "Currency",
                          "Payout", "Payout currency", "Reason", "Conversion"]  # fmt: skip
        assert line == [number, uid, "2026-10-05 12:30:00", "Conversion", "Order placed", "'=A17",
                        "c-1", "125.00", "SEK", "12.50", "EUR", "", str(conversion.pk)]  # fmt: skip
        assert total == [number, uid, "", "Total", "", "", "", "", "", "12.50", "EUR", "",
                         ""]  # fmt: skip
        _, line, total = read(staff.get(address(second, "download")))
        assert line[3] == "Adjustment: payout changed"
        assert line[9:] == ["-2.50", "EUR", "'-1 piece", str(conversion.pk)]
        assert total[9:11] == ["-2.50", "EUR"]

    def test_adds_up_to_its_total_in_its_file(self, staff: Client) -> None:
        conversion = earned("0.1", amount=1, currency="SEK")
        for payout in ("0.2", "1000000.0001", "7"):
            earned(payout, visitor__partner=conversion.partner, amount=9, currency="DKK")
        adjustments.adjust(conversion, payout=Decimal("-0.05"), reason="A part")
        settlement = settle(conversion.partner, reference="2026/10 “É”")
        response = staff.get(address(settlement, "download"))
        assert response["Content-Disposition"] == (
            "attachment; filename*=utf-8''"
            f"statement-{settlement.serial_number}-2026-10-%C3%89-{conversion.partner.uid}.csv"
        )
        _header, *lines, total = read(response)
        payouts = [Decimal(line[9]) for line in lines]
        assert len(payouts) == 5
        assert sum(payouts) == Decimal(total[9]) == settlement.total == Decimal("1000007.2501")

    def test_has_a_file_of_its_own_though_a_reference_stands_on_several(
        self, staff: Client
    ) -> None:
        names = set()
        partner = earned("1").partner
        for _month in range(2):
            settlement = settle(partner, reference="PayPal")
            names.add(staff.get(address(settlement, "download"))["Content-Disposition"])
            earned("2", visitor__partner=partner)
        assert len(names) == 2

    def test_has_a_button_for_its_file(self, staff: Client) -> None:
        settlement = settled().settlement
        assert f'href="{address(settlement, "download")}"' in (
            staff.get(address(settlement, "statement")).text
        )

    @pytest.mark.parametrize("page", ["statement", "download"])
    @pytest.mark.parametrize("text", HOSTILE)
    def test_shows_hostile_text_harmlessly(self, staff: Client, page: str, text: str) -> None:
        conversion = settled(
            reference=text, visitor__click_id=text, visitor__partner__name=text[:250]
        )
        decisions.decide(conversion, "rejected", reason=text)
        settlement = settle(conversion.partner, reference=text)
        response = staff.get(address(settlement, page))
        if page == "download":
            _header, *lines = read(response)
            assert len(lines) == 2
            assert not [cell for line in lines for cell in line if cell.startswith("=")]
        else:
            assert text in shown(response) or "<" in text
            assert "<script>alert" not in response.text
            assert "<img" not in response.text

    def test_is_cut_where_it_is_long_and_says_so(self, staff: Client, monkeypatch: Any) -> None:
        partner = PartnerFactory()
        several(partner, 3)
        monkeypatch.setattr(pages, "LINES", 2)
        assert "the first 2 of 3 lines" in shown(
            staff.get(ADD, {"partner": partner.pk, "currency": "EUR", "until": ""})
        )
        page = staff.get(address(settle(partner), "statement"))
        assert "the first 2 of 3 lines. The CSV file contains all lines." in shown(page)
        assert len(page.context["lines"]) == 2

    @pytest.mark.parametrize("page", ["statement", "download"])
    @pytest.mark.parametrize("number", [10, 1000])
    def test_costs_as_much_for_many_lines_as_for_few(
        self, staff: Client, page: str, number: int
    ) -> None:
        partner = PartnerFactory()
        several(partner, number)
        settlement = settle(partner)
        with CaptureQueriesContext(connection) as queries:
            response = staff.get(address(settlement, page))
            size = len(response.getvalue()) if response.streaming else len(response.content)
        assert size > 50 * number
        # The session, the user, the settlement with its partner; two of the lines.
        assert len(queries) == 5

    def test_is_in_the_readers_language_and_numbers(self, staff: Client, settings: Any) -> None:
        settlement = settled("1234.5").settlement
        settings.LANGUAGE_CODE = "da"
        with translation.override("da"):
            assert "1234,50 EUR" in shown(staff.get(address(settlement, "statement")))
            content = staff.get(address(settlement, "download")).getvalue().decode("utf-8-sig")
        assert ";1234,50;EUR;" in content

    @pytest.mark.parametrize("page", ["statement", "download", "change"])
    @pytest.mark.parametrize("key", ["17", "x", "9" * 30])
    def test_of_no_settlement_leads_back(self, staff: Client, page: str, key: str) -> None:
        response = staff.get(reverse(f"admin:affiliations_settlement_{page}", args=[key]))
        assert (response.status_code, response["Location"]) == (302, "/admin/")

    def test_runs_no_script_and_no_style_of_the_page_itself(self, staff: Client) -> None:
        conversion = settled()
        for page in (
            staff.get(address(conversion.settlement, "statement")),
            staff.get(asked(conversion)),
            staff.get(ADD),
            staff.get(address(conversion, "adjust")),
        ):
            assert not re.search(r"<style|\sstyle=|\son\w+=", page.text)
            assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page.text))


class TestTheList:
    def test_shows_settlements_with_their_totals(self, staff: Client) -> None:
        settlement = settled("1234.50").settlement
        text = shown(staff.get(url(Settlement)))
        assert f"Statement {settlement.serial_number}" in text
        assert "1234.50 EUR" in text
        assert "1234.50 EUR" in shown(staff.get(url(settlement)))

    def test_is_found_by_reference_and_partner(self, staff: Client) -> None:
        partner = earned().partner
        settle(partner, reference="2026-117")
        for term in ("2026-117", partner.name, partner.uid):
            assert "2026-117" in shown(staff.get(url(Settlement), {"q": term}))
        assert "2026-117" not in shown(staff.get(url(Settlement), {"q": "nothing"}))

    @pytest.mark.parametrize("model", [Settlement, Adjustment])
    @pytest.mark.parametrize("number", [2, 30])
    def test_costs_as_much_for_many_as_for_few(
        self, staff: Client, model: Any, number: int
    ) -> None:
        for _ in range(number):
            conversion = settled()
            decisions.decide(conversion, "rejected", by=UserFactory())
            settle(conversion.partner, by=UserFactory())
        with CaptureQueriesContext(connection) as queries:
            staff.get(url(model))
        assert len(queries) <= 6

    def test_is_downloaded_as_csv(self, staff: Client) -> None:
        conversion = settled("12.50", amount=125, currency="SEK", reference="A17")
        adjustments.adjust(
            conversion, payout=Decimal(-3), amount=Decimal(-30), reason="=1+1", by=UserFactory()
        )
        header, line = read(staff.get(url(Settlement, "csv")))
        assert dict(zip(header[-2:], line[-2:], strict=True)) == {
            "Partner uid": conversion.partner.uid,
            "Total": "12.50",
        }
        assert [conversion.partner.name, "0", "0.00", "EUR"] == [line[1], line[7], line[8], line[9]]
        _, line = read(staff.get(url(Adjustment, "csv")))
        assert line[1:8] == [str(conversion.pk), conversion.partner.name, "payout changed",
                             "-30.00",
                             "-3.00", "EUR", "'=1+1"]  # fmt: skip
        assert "-30.00 SEK" in shown(staff.get(url(Adjustment.objects.get())))

    def test_of_corrections_shows_a_dash_where_no_amount_changed(self, staff: Client) -> None:
        adjustments.adjust(settled(), payout=Decimal(-3), reason="A part")
        page = staff.get(url(Adjustment.objects.get()))
        assert re.search(r"Amount: - ", shown(page))

    def test_of_corrections_shows_what_waits_for_a_settlement(self, staff: Client) -> None:
        conversion = settled()
        decisions.decide(conversion, "rejected")
        text = shown(staff.get(url(Adjustment), {"settlement__isempty": "1"}))
        assert "-10.00 EUR Rejected after it was in a statement." in text
        assert "-10.00 EUR" in shown(staff.get(url(Adjustment.objects.get())))
        settle(conversion.partner)
        assert "-10.00" not in shown(staff.get(url(Adjustment), {"settlement__isempty": "1"}))


class TestCorrecting:
    def test_writes_the_difference_and_who_said_why(self, staff: Client) -> None:
        conversion = settled(amount=100, currency="EUR")
        page = staff.get(address(conversion, "adjust"))
        assert seen(page) == {
            "amount": Decimal("100.00"),
            "current_payout": Decimal(10),
            "current_amount": Decimal(100),
        }
        assert "Statement of the adjustment: The next one." in shown(page)
        filled = seen(
            page, payout="6.50", amount="65", reason="One of three came back", confirmed="yes"
        )
        response = staff.post(address(conversion, "adjust"), filled, follow=True)
        assert response.redirect_chain == [(url(conversion), 302)]
        adjustment = Adjustment.objects.get()
        assert (adjustment.payout, adjustment.amount) == (Decimal("-3.5"), -35)
        assert adjustment.created_by is not None
        said = "The payout was adjusted by -3.50\xa0EUR: One of three came back"
        assert said.replace("\xa0", " ") in shown(response)
        assert LogEntry.objects.get().get_change_message() == said

    def test_of_the_payout_alone_says_nothing_of_the_amount(self, staff: Client) -> None:
        conversion = settled(amount=100, currency="EUR")
        page = staff.get(address(conversion, "adjust"))
        staff.post(
            address(conversion, "adjust"),
            seen(page, payout="6.50", reason="A part", confirmed="yes"),
        )
        assert Adjustment.objects.get().amount is None

    def test_shows_what_was_corrected_before(self, staff: Client) -> None:
        conversion = earned(amount=100, currency="EUR")
        adjustments.adjust(conversion, payout=Decimal(-3), amount=Decimal(-30), reason="A part")
        adjustments.adjust(conversion, payout=Decimal(-1), reason="A part")
        page = staff.get(address(conversion, "adjust"))
        assert re.search(
            r"Payout 10.00 EUR .* -3.00 EUR .* -1.00 EUR Current payout 6.00 EUR", shown(page)
        )
        assert seen(page)["amount"] == 70
        assert "Statement of the adjustment: With its conversion" in shown(page)

    def test_twice_corrects_once_and_says_so(self, staff: Client) -> None:
        conversion = settled()
        filled = seen(
            staff.get(address(conversion, "adjust")), payout="6", reason="A part", confirmed="yes"
        )
        staff.post(address(conversion, "adjust"), filled)
        response = staff.post(address(conversion, "adjust"), filled, follow=True)
        assert "Nothing was adjusted" in shown(response)
        assert response.redirect_chain == [(address(conversion, "adjust"), 302)]
        assert Adjustment.objects.count() == 1

    @pytest.mark.parametrize(
        ("filled", "message"),
        [
            ({"payout": "10"}, "The payout does not change. Enter a different payout."),
            ({"payout": "-1"}, "greater than or equal to 0"),
            ({"payout": "", "amount": ""}, "Enter what the order is worth now, or a payout."),
            ({"payout": "", "amount": "0"}, "Reject the conversion instead."),
            ({"payout": "6.001"}, "Enter fewer decimals: EUR has no smaller unit."),
            ({"payout": "6.00001"}, "no more than 4 decimal places"),
            ({"amount": "0.001"}, "Enter fewer decimals: EUR has no smaller unit."),
            ({"payout": "NaN"}, "Enter a number."),
            ({"payout": "999999999999999"}, "Enter a smaller number."),
            ({"reason": ""}, "This field is required."),
            ({"reason": "\0"}, "Null characters are not allowed."),
            ({"current_payout": "x"}, "Enter a number."),
            ({"current_payout": "NaN"}, "Enter a number."),
            ({"current_payout": "1e9999999"}, "no more than 19 digits"),
            ({"current_payout": "-1e9999999"}, "no more than 19 digits"),
            ({"current_payout": "1e-9999999"}, "no more than 19 digits"),
            ({"payout": "1e9999999"}, "no more than 19 digits"),
            ({"amount": "-1e9999999"}, "greater than or equal to 0"),
        ],
        ids=str,
    )
    def test_says_what_is_wrong(self, staff: Client, filled: dict[str, str], message: str) -> None:
        conversion = settled(amount=100, currency="EUR")
        right = {"payout": "6", "amount": "100", "reason": "A part", "current_payout": "10"}
        right |= {"current_amount": "100", "confirmed": "yes"}
        page = staff.post(address(conversion, "adjust"), right | filled)
        assert message in shown(page)
        assert not Adjustment.objects.exists()

    @pytest.mark.parametrize(
        "fields",
        [{"status": "rejected"}, {"is_test": True}, {"payout": None}],
    )
    def test_is_offered_only_where_it_can_be_done(
        self, staff: Client, fields: dict[str, Any]
    ) -> None:
        conversion = ConversionFactory(**{"payout": 10, "payout_currency": "EUR"} | fields)
        page = staff.get(address(conversion, "adjust"))
        assert "A conversion cannot be adjusted if it is rejected or a test" in shown(page)
        filled = {"payout": "6", "current_payout": "10", "reason": "A part", "confirmed": "yes"}
        page = staff.post(address(conversion, "adjust"), filled, follow=True)
        assert page.status_code == 200
        assert not Adjustment.objects.exists()

    @pytest.mark.parametrize("text", HOSTILE)
    def test_shows_hostile_text_harmlessly(self, staff: Client, text: str) -> None:
        conversion = settled(reference=text)
        filled = {"payout": "6", "current_payout": "10", "reason": text, "confirmed": "yes"}
        done = staff.post(address(conversion, "adjust"), filled, follow=True)
        assert Adjustment.objects.get().reason == text
        for page in (done, staff.get(url(Adjustment)), staff.get(address(conversion, "adjust"))):
            assert "<script>alert" not in page.text
            assert "<img src=x" not in page.text


class TestWhoMay:
    def test_only_look_changes_nothing_by_any_address(self) -> None:
        conversion = settled()
        decisions.decide(conversion, "rejected")
        correctable = earned(visitor__partner=conversion.partner)
        looks = allowed(*(f"view_{name}" for name in
                          ("settlement", "adjustment", "conversion", "partner")))  # fmt: skip
        rows = [conversion.settlement, Adjustment.objects.get()]
        for row in rows:
            assert looks.get(url(row)).status_code == 200
            assert looks.get(url(type(row))).status_code == 200
            assert looks.post(url(row), {"reference": "x"}).status_code == 403
            assert looks.post(url(row, "delete"), {"post": "yes"}).status_code == 403
        assert looks.get(address(conversion.settlement, "statement")).status_code == 200
        assert looks.get(address(conversion.settlement, "download")).status_code == 200
        for forbidden in (
            asked(conversion),
            ADD,
            address(correctable, "adjust"),
            address(conversion.partner, "settle"),
            url(Adjustment, "add"),
        ):
            assert looks.get(forbidden).status_code == 403
            assert looks.post(forbidden, {"payout": "1"}).status_code == 403
        assert (Settlement.objects.count(), Adjustment.objects.count()) == (1, 1)
        assert not LogEntry.objects.exists()

    def test_settle_may_do_that_and_nothing_else(self) -> None:
        conversion = earned()
        settles = allowed("add_settlement")
        page = settles.get(asked(conversion))
        response = settles.post(asked(conversion), seen(page))
        assert (response.status_code, response["Location"]) == (302, ADD)
        settlement = Settlement.objects.get()
        assert settles.get(address(settlement, "statement")).status_code == 403
        assert settles.get(address(settlement, "download")).status_code == 403

    def test_correct_may_do_that(self) -> None:
        conversion = settled()
        corrects = allowed("add_adjustment", "view_conversion")
        assert corrects.get(address(conversion, "adjust")).status_code == 200
        assert allowed("add_adjustment").get(address(conversion, "adjust")).status_code == 403

    def test_do_everything_changes_no_fact(self, staff: Client) -> None:
        conversion = settled()
        decisions.decide(conversion, "rejected")
        adjustment = Adjustment.objects.get()
        assert staff.post(url(adjustment), {"reason": "x"}).status_code == 403
        for row in (conversion.settlement, adjustment):
            assert staff.post(url(row, "delete"), {"post": "yes"}).status_code == 403
        assert staff.get(url(Adjustment, "add")).status_code == 403

    def test_is_nobody_who_is_not_logged_in(self, client: Client) -> None:
        conversion = settled()
        for page in (ADD, address(conversion.settlement, "statement"),
                     address(conversion.settlement, "download")):  # fmt: skip
            assert client.get(page)["Location"].startswith("/admin/login/")


def read(response: Any) -> list[list[str]]:
    text = response.getvalue().decode("utf-8-sig")
    return list(csv.reader(io.StringIO(text, newline="")))
