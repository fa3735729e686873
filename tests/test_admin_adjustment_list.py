"""Many conversions adjusted at once, by a pasted list of what their orders are worth now."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from affiliations.conversions import adjustments
from affiliations.models import Adjustment, Conversion
from tests.growth import assert_linear
from tests.test_admin import allowed, shown, url
from tests.test_admin_adjustments import APPROVED, REJECTED, counted
from tests.test_admin_partners import said
from tests.test_admin_settlements import HOSTILE
from tests.test_settlements import settle

pytestmark = pytest.mark.django_db


def page_url() -> str:
    return reverse("admin:affiliations_conversion_adjust_list")


def send(client: Client, text: str, **fields: str) -> Any:
    return client.post(page_url(), {"text": text, "reason": "Parts came back"} | fields)


def confirm(client: Client, page: Any, **fields: str) -> Any:
    sent = {"shown": page.context["shown"], "form_token": page.context["form_token"]}
    return client.post(page_url(), sent | {"confirmed": "yes"} | fields, follow=True)


def mistakes(page: Any) -> list[tuple[int, str]]:
    assert not Adjustment.objects.exists()
    return [(one.number, one.text) for one, _url in page.context["mistakes"]]


class TestAList:
    @pytest.mark.parametrize(
        "text",
        [
            "A-1, 60\nA-2, 150.50",
            "A-1;60\nA-2;150,50",
            "A-1\t60\nA-2\t150,50",
            "Reference\tNew amount\n\nA-1\t60,00\tEUR\t\n  \nA-2\t150,50\teur",
            "\ufeffOrder,Amount\r\nA-1,60,EUR\r\nA-2,150,50,EUR\r\n",
            '"A-1","60"\n"A-2", "150,50"',
            " A-1 , 60 \nA-2,150,50",
        ],
        ids=repr,
    )
    def test_is_read_as_people_paste_it(self, staff: Client, text: str) -> None:
        counted(reference="A-1"), counted(reference="A-2")
        page = send(staff, text)
        assert mistakes_free(page)
        confirm(staff, page)
        now = {row.reference: row.current_amount for row in Conversion.objects.all()}
        assert now == {"A-1": 60, "A-2": Decimal("150.5")}

    def test_names_all_of_its_mistakes_at_once(self, staff: Client) -> None:
        for fields in (
            {"reference": "A-1"},
            {"reference": "A-2", "status": REJECTED},
            {"reference": "A-3", "payout": None, "payout_currency": "", "payout_type": "none"},
            {"reference": "A-4", "amount": None, "payout_type": "fixed"},
            {"reference": "twice", "trigger": "Order placed"},
            {"reference": "twice", "trigger": "User registered"},
            {"reference": "test", "is_test": True},
            {"reference": "A-5"},
            {"reference": "A-6"},
        ):
            counted(**fields)
        lines = [
            "A-1, 60",
            "nobody, 60",
            "A-1, 70",
            "a-1, 60",
            "A-2, 60",
            "A-3, 60",
            "A-4, 60",
            "twice, 60",
            "test, 60",
            "A-5, many",
            "A-5",
            ", 60",
            "A-5; 60; EUR; x",
            "A-5, 1,234",
            "A-6, 60, SEK",
            "A-7, 0",
            "A-5, 60.001",
            "x" * 1000,
        ]
        page = send(staff, "\n".join(lines))
        found = mistakes(page)
        unknown = "is unknown: no conversion has this reference."
        several = (
            "“twice” is the reference of several conversions: “Order placed”, “User registered”. "
            "Choose the trigger below the list."
        )
        form = "Enter a reference and an amount, with a comma, semicolon or tab between."
        assert found == [
            (2, f"“nobody” {unknown}"),
            (3, "“A-1” is already in line 1."),
            (4, f"“a-1” {unknown}"),
            (5, "“A-2” is rejected. Reopen the conversion first."),
            (6, "“A-3” has no payout. Open the conversion to change its amount."),
            (7, "“A-4” has no amount. Open the conversion to adjust its payout."),
            (8, several),
            (9, f"“test” {unknown}"),
            (10, "“many”: The amount is not a valid number."),
            (11, form),
            (12, form),
            (13, form),
            (14, "“A-5” is already in line 10."),
            (15, "“A-6” is in EUR, not in SEK."),
            (16, "“A-7”: The order would be worth nothing. Reject the conversion instead."),
            (17, "“A-5” is already in line 10."),
            (18, form),
        ]
        text = shown(page)
        assert "The list has 17 mistakes. Nothing was adjusted." in text
        assert f"Line 5: {found[3][1]}" in text
        assert url(Conversion.objects.get(reference="A-2")) in page.text
        # What was typed stays.
        assert page.context["form"]["text"].value().splitlines() == lines
        [ambiguous, finer] = mistakes(send(staff, "A-5, 1,234\nA-6, 60.0010"))
        assert ambiguous[1].startswith("“1,234”: The amount can be read in two ways.")
        assert finer[1] == "“A-6”: Enter fewer decimals: EUR has no smaller unit."

    @pytest.mark.parametrize(
        "line", ["A-1, 2, 50", '"A-1","2","50"', "A-1,2,50 ,x9", "A-1,2, 50,EUR"]
    )
    def test_with_further_columns_is_refused(self, staff: Client, line: str) -> None:
        counted(reference="A-1")
        [(_number, text)] = mistakes(send(staff, line))
        assert text.startswith("Enter a reference and an amount")

    def test_with_a_line_of_empty_values_names_it(self, staff: Client) -> None:
        found = mistakes(send(staff, 'A-1,60\n"",""'))
        assert [number for number, _text in found] == [1, 2]

    def test_of_a_currency_with_three_decimals(self, staff: Client) -> None:
        row = counted(reference="A-1", currency="KWD", payout_currency="KWD")
        [(_number, text)] = mistakes(send(staff, "A-1; 12.345"))
        assert text.endswith("without a thousands separator, and with two or four decimals.")
        confirm(staff, send(staff, "A-1; 12.3450"))
        row.refresh_from_db()
        assert row.current_amount == Decimal("12.345")

    def test_is_of_one_trigger_if_that_is_chosen(self, staff: Client) -> None:
        for trigger in ("Order placed", "User registered"):
            counted(reference="A-1", trigger=trigger)
        page = send(staff, "A-1, 60", trigger="User registered")
        confirm(staff, page)
        assert Adjustment.objects.get().conversion.trigger == "User registered"

    def test_finds_the_conversion_that_counts_beside_a_rejected_one(self, staff: Client) -> None:
        rejected = counted(REJECTED, reference="A-1")
        Conversion.objects.update(released=rejected.pk)
        other = counted(reference="A-1")
        confirm(staff, send(staff, "A-1, 60"))
        assert Adjustment.objects.get().conversion == other

    @pytest.mark.parametrize("length", [300, 500])
    def test_has_long_references_too(self, staff: Client, length: int) -> None:
        from affiliations.models.conversion_queries import reference_key

        long = "1" * length
        row = counted(reference=long[:255])
        Conversion.objects.filter(pk=row.pk).update(reference_key=reference_key(long))
        assert mistakes_free(send(staff, f"{long}, 60"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "This field is required."),
            ("A-1, 1\n" * 1001, "Paste at most 1000 lines at once. These are 1001 lines."),
            ("A-1, 100", "Nothing changes. Paste at least one new amount."),
            ("Reference, Amount", "Nothing changes. Paste at least one new amount."),
            ("A-1, \0", "Null characters are not allowed."),
            ("A-1, 100", "Nothing changes."),
        ],
    )
    def test_must_change_something(self, staff: Client, text: str, message: str) -> None:
        counted(reference="A-1")
        assert message in shown(send(staff, text))

    def test_must_have_a_reason(self, staff: Client) -> None:
        counted(reference="A-1")
        page = send(staff, "A-1, 60", reason="")
        assert "This field is required." in shown(page)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_with_hostile_text_is_harmless(self, staff: Client, text: str) -> None:
        counted(reference="A-1")
        for sent in (text, f"A-1, 60\n{text}", f"{text}, 60", f"A-1, {text}"):
            page = send(staff, sent, reason=text)
            assert page.status_code == 200
            assert "<script>alert" not in page.text
            assert "<img src=x" not in page.text

    def test_takes_time_linear_to_its_length(self, staff: Client) -> None:
        def send_all(length: int) -> None:
            send(staff, "\n".join(["1" * 598] * (length // 600)))
            send(staff, '"' * length)
            send(staff, "\n" * length)
            send(staff, "1" + ",234" * (length // 4))

        assert_linear(send_all, 600_000)


def mistakes_free(page: Any) -> bool:
    return "rows" in page.context


class TestThePreview:
    def test_shows_all_changes_with_totals_by_currency(self, staff: Client) -> None:
        settled = counted(APPROVED, reference="A-1")
        assert settle(settled.partner, reference="V-1")
        counted(reference="A-2")
        counted(reference="A-3", currency="SEK", payout_currency="SEK")
        counted(reference="A-4", payout_type="fixed")
        page = send(staff, "Order; Amount\nA-1; 60\nA-2; 150\nA-3; 50\nA-4; 10\nA-2b; 1\n")
        assert mistakes(page) == [(6, "“A-2b” is unknown: no conversion has this reference.")]
        counted(reference="A-2b", amount=1)
        page = send(staff, "Order; Amount\nA-1; 60\nA-2; 150\nA-3; 50\nA-4; 10\nA-2b; 1\n")
        text = shown(page).replace("\xa0", " ")
        assert "Line 1 is a heading." in text
        assert "Left out, because they change nothing: lines 6." in text
        for line in (
            "A-1 {} 100.00 EUR 60.00 EUR 10.00 EUR 6.00 EUR The next one. Statement V-1",
            "A-2 {} 100.00 EUR 150.00 EUR 10.00 EUR 15.00 EUR With its conversion",
            "A-3 {} 100.00 SEK 50.00 SEK 10.00 SEK 5.00 SEK With its conversion",
            "A-4 {} 100.00 EUR 10.00 EUR 10.00 EUR 10.00 EUR With its conversion",
            "Amount 300.00 EUR 220.00 EUR -80.00 EUR",
            "Payout 30.00 EUR 31.00 EUR 1.00 EUR",
            "Payout 10.00 SEK 5.00 SEK -5.00 SEK",
        ):
            reference = line.partition(" ")[0]
            row = Conversion.objects.filter(reference=reference).first()
            assert line.format(row and row.partner) in text
        assert not Adjustment.objects.exists()

    def test_costs_as_many_queries_for_many_lines_as_for_few(self, staff: Client) -> None:
        def queries(count: int) -> int:
            text = "\n".join(f"A-{number}, 60" for number in range(count))
            with CaptureQueriesContext(connection) as captured:
                assert mistakes_free(send(staff, text))
            return len(captured)

        for number in range(20):
            row = counted(APPROVED, reference=f"A-{number}")
            adjustments.adjust(row, amount=Decimal(1), reason="More")
            assert settle(row.partner)
        queries(2)
        assert queries(2) == queries(20)

    def test_can_be_changed(self, staff: Client) -> None:
        counted(reference="A-1")
        page = send(staff, "A-1, 60")
        page = confirm(staff, page, edit="Change")
        assert not Adjustment.objects.exists()
        assert page.context["form"]["text"].value() == "A-1, 60"
        assert page.context["form"]["reason"].value() == "Parts came back"

    def test_that_was_cut_on_the_way_adjusts_nothing(self, staff: Client) -> None:
        counted(reference="A-1")
        page = send(staff, "A-1, 60")
        page = staff.post(page_url(), {"shown": page.context["shown"][:-1], "confirmed": "yes"})
        assert "The list was not received completely. Paste it again." in shown(page)
        assert not Adjustment.objects.exists()


class TestTheConfirmation:
    def test_adjusts_with_history_for_each(self, staff: Client) -> None:
        first, second = counted(reference="A-1"), counted(reference="A-2", currency="SEK")
        Conversion.objects.filter(pk=second.pk).update(payout_currency="SEK")
        page = confirm(staff, send(staff, "A-1, 60\nA-2, 150"))
        assert page.redirect_chain == [(url(Conversion), 302)]
        message = "Adjusted 2 conversions. The payouts changed by -4.00 EUR, 5.00 SEK."
        assert message in shown(page).replace("\xa0", " ")
        assert said(first) == ["The payout was adjusted by -4.00\xa0EUR: Parts came back"]
        assert said(second) == ["The payout was adjusted by 5.00\xa0SEK: Parts came back"]
        for row in Adjustment.objects.all():
            assert (row.reason, row.created_by) == ("Parts came back", row.created_by)
            assert row.created_by is not None

    def test_leaves_out_and_names_what_has_changed_meanwhile(self, staff: Client) -> None:
        rows = [counted(reference=f"A-{number}") for number in range(4)]
        page = send(staff, "A-0, 60\nA-1; 60\nA-2, 60, EUR\nA-3, 60")
        adjustments.adjust(rows[1], payout=Decimal(1), reason="A bonus")
        Conversion.objects.filter(pk=rows[2].pk).update(status=REJECTED)
        rows[3].delete()
        page = confirm(staff, page)
        assert "3 lines were left out, because the conversions have changed" in shown(page)
        assert "Adjusted 1 conversion." in shown(page)
        assert page.context["form"]["text"].value() == "A-1; 60\nA-2, 60, EUR\nA-3, 60"
        assert Adjustment.objects.filter(reason="Parts came back").count() == 1
        # And looked at once more, it is right.
        assert mistakes_free(send(staff, "A-1\t60"))

    def test_of_what_has_all_changed_adjusts_nothing(self, staff: Client) -> None:
        row = counted(reference="A-1")
        page = send(staff, "A-1, 60")
        adjustments.adjust(row, payout=Decimal(1), reason="A bonus")
        page = confirm(staff, page)
        assert "1 line was left out" in shown(page)
        assert "Adjusted" not in "".join(map(str, page.context["messages"]))

    def test_twice_adjusts_once(self, staff: Client) -> None:
        counted(reference="A-1")
        page = send(staff, "A-1, 60")
        confirm(staff, page)
        assert "This form was already sent." in shown(confirm(staff, page))
        assert Adjustment.objects.count() == 1

    def test_writes_the_history_with_the_adjustment_or_neither(
        self, staff: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted(reference="A-1")
        page = send(staff, "A-1, 60")

        def fails(*args: object) -> None:
            raise RuntimeError

        with monkeypatch.context() as patch:
            patch.setattr("django.contrib.admin.ModelAdmin.log_change", fails)
            with pytest.raises(RuntimeError):
                confirm(staff, page)
        assert not Adjustment.objects.exists()
        assert not LogEntry.objects.exists()


class TestWhoMay:
    def test_is_who_may_adjust_one(self) -> None:
        counted(reference="A-1")
        for permissions, status in (
            (["view_conversion"], 403),
            (["add_adjustment"], 403),
            (["change_conversion"], 403),
            (["view_conversion", "add_adjustment"], 200),
        ):
            client = allowed(*permissions)
            assert client.get(page_url()).status_code == status
            assert send(client, "A-1, 60").status_code == status
            if "add_adjustment" not in permissions:
                assert page_url() not in client.get(url(Conversion)).text
        assert page_url() in client.get(url(Conversion)).text
        assert not Adjustment.objects.exists()
