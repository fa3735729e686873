"""What the staff write down of a partner, and who may read where the partner is paid."""

from __future__ import annotations

import csv
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.test import Client

from affiliations.models import Partner
from tests.factories import PartnerFactory
from tests.test_admin import allowed, partner_form, shown, url
from tests.test_admin_changes import _Form, opened
from tests.test_admin_partners import said

pytestmark = pytest.mark.django_db

IBAN = "DK50 0040 0440 1162 43"
RECORD = {
    "email": "partners@steep.example",
    "notify": "on",
    "group": "Bloggers",
    "notes": "Prefers e-mail.",
    "terms": "No bids on our brand.",
    "minimum_payout": "50",
    "minimum_payout_currency": "eur",
    "payment_details": IBAN,
}


class TestTheRecord:
    @pytest.mark.parametrize("page", ["add", "deal"])
    def test_is_kept_and_shown_again(self, page: str, staff: Client) -> None:
        target: Any = Partner if page == "add" else PartnerFactory()
        assert staff.post(url(target, page), partner_form(**RECORD)).status_code == 302
        partner = Partner.objects.get()
        stored = {name: getattr(partner, name) for name in RECORD}
        expected = RECORD | {"notify": True, "minimum_payout_currency": "EUR"}
        assert stored == expected | {"minimum_payout": Decimal(50)}
        form = staff.get(url(partner, "deal")).context["adminform"].form
        assert form.initial.items() >= stored.items()
        front = shown(staff.get(url(partner)))
        for name in ("email", "group", "notes"):
            assert RECORD[name] in front
        assert IBAN not in front

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_of_several_lines_is_saved_again_as_a_browser_sends_it(
        self, end: str, staff: Client
    ) -> None:
        partner = PartnerFactory(name="Before", terms=f"One.{end}Two.")
        form = opened(staff, partner) | {"name": "After"}
        form |= dict.fromkeys(("terms", "initial-terms"), "One.\r\nTwo.")
        assert staff.post(url(partner, "deal"), form).status_code == 302
        assert said(partner) == ["Changed Name from Before to After."]

    def test_is_short_where_a_partner_is_added(self, staff: Client) -> None:
        response = staff.get(url(Partner, "add"))
        (_none, first), (_more, folded) = response.context["adminform"].fieldsets
        assert [row[0] for row in first["fields"]] == ["name", "active", "email"]
        assert folded["classes"] == ["collapse"]
        assert "<details><summary>" in response.text.replace("\n", "").replace("  ", "")

    def test_opens_what_is_folded_where_a_mistake_is_in_it(self, staff: Client) -> None:
        page = staff.post(url(Partner, "add"), partner_form(minimum_payout="50"))
        assert "Enter the three-letter currency code, such as EUR." in shown(page)
        assert "<summary>More details" not in page.text

    def test_suggests_the_groups_that_there_are(self, staff: Client) -> None:
        partner = PartnerFactory(group="Bloggers")
        for group in ("Bloggers", "Coupons & deals", ""):
            PartnerFactory(group=group)
        for page in (url(partner, "deal"), url(Partner, "add")):
            text = staff.get(page).text
            assert 'list="group-groups"' in text
            datalist = text.split('<datalist id="group-groups">')[1].split("</datalist>")[0]
            values = [part.split('"')[0] for part in datalist.split('value="')[1:]]
            assert values == ["Bloggers", "Coupons &amp; deals"]

    def test_is_found_by_the_address(self, staff: Client) -> None:
        PartnerFactory(name="Steep Notes", email="partners@steep.example")
        PartnerFactory(name="Other")
        page = shown(staff.get(url(Partner), {"q": "steep.example"}))
        assert "Steep Notes" in page
        assert "1 partner" in page

    def test_is_readable_for_who_may_only_view(self) -> None:
        partner = PartnerFactory(
            email="partners@steep.example",
            terms="No bids.",
            minimum_payout=50,
            minimum_payout_currency="EUR",
        )
        text = shown(allowed("view_partner").get(url(partner, "deal")))
        assert "Minimum payout: 50.00 EUR" in text
        assert "No bids." in text
        assert "partners@steep.example" in text


class TestAMistakeInTheRecord:
    @pytest.mark.parametrize(
        ("fields", "field", "message"),
        [
            (
                {"minimum_payout_currency": "EUR"},
                "minimum_payout",
                "Enter the minimum payout, or leave its currency empty as well.",
            ),
            (
                {"minimum_payout": 50},
                "minimum_payout_currency",
                "Enter the three-letter currency code, such as EUR.",
            ),
            (
                {"minimum_payout": 50, "minimum_payout_currency": "XAU"},
                "minimum_payout_currency",
                "Enter the three-letter currency code, such as EUR.",
            ),
            (
                {"minimum_payout": Decimal("0.5"), "minimum_payout_currency": "JPY"},
                "minimum_payout",
                "Enter at most 0 decimals for JPY.",
            ),
            (
                {"minimum_payout": -1, "minimum_payout_currency": "EUR"},
                "minimum_payout",
                "Ensure this value is greater than or equal to 0.",
            ),
            (
                {"minimum_payout": 10**14, "minimum_payout_currency": "EUR"},
                "minimum_payout",
                "Enter a smaller amount.",
            ),
            (
                {"notify": True},
                "email",
                "Enter the address that notices are sent to, or clear “Notify by e-mail”.",
            ),
        ],
    )
    def test_is_said_at_its_field(self, fields: dict[str, Any], field: str, message: str) -> None:
        with pytest.raises(ValidationError) as raised:
            Partner(name="x", **fields).full_clean()
        assert raised.value.message_dict == {field: [message]}

    def test_is_no_minimum_of_nothing(self) -> None:
        partner = Partner(name="x", minimum_payout=0, minimum_payout_currency="eur")
        partner.full_clean()
        assert partner.minimum_payout_currency == "EUR"

    def test_is_said_once(self, staff: Client) -> None:
        form = partner_form(minimum_payout="ten", minimum_payout_currency="EUR")
        page = staff.post(url(PartnerFactory(), "deal"), form)
        assert page.context["adminform"].form.errors == {"minimum_payout": ["Enter a number."]}

    @pytest.mark.urls("tests.test_admin_changes")
    def test_is_said_above_a_form_without_the_field(self, staff: Client) -> None:
        PartnerFactory(notify=True, minimum_payout_currency="EUR")
        address = "/host/affiliations/partner/"
        form = _Form(staff.get(address).text).sent | {"_save": "Save"}
        form.pop("form-0-active")
        page = staff.post(address, form)
        assert "Enter the address that notices are sent to" in shown(page)
        assert "Enter the minimum payout" in shown(page)


class TestPaymentDetails:
    @pytest.fixture
    def partner(self) -> Partner:
        return PartnerFactory(payment_details=IBAN)

    @pytest.mark.parametrize(
        "permissions",
        [("view_partner",), ("view_partner", "add_partner", "change_partner", "delete_partner")],
    )
    def test_are_nowhere_without_their_permission(
        self, permissions: tuple[str, ...], partner: Partner
    ) -> None:
        client = allowed(*permissions)
        pages = [url(partner, page) for page in ("change", "deal", "callbacks", "history")]
        pages += [url(Partner)]
        if len(permissions) > 1:
            pages += [url(partner, "delete"), url(Partner, "add")]
        for page in pages:
            response = client.get(page)
            assert response.status_code == 200, page
            assert "0040" not in response.text
            assert "payment_details" not in response.text
            assert "payment details" not in response.text.lower()
        found = client.get(url(Partner), {"q": "0040"})
        assert found.context["cl"].result_count == 0

    def test_are_not_written_without_their_permission(self, partner: Partner) -> None:
        client = allowed("view_partner", "change_partner")
        form = partner_form(name="New", payment_details="Mine")
        for page in ("change", "deal"):
            assert client.post(url(partner, page), form).status_code == 302
        partner.refresh_from_db()
        assert (partner.name, partner.payment_details) == ("New", IBAN)

    def test_are_only_read_by_who_may_only_view(self, partner: Partner) -> None:
        client = allowed("view_partner", "payment_details")
        page = client.get(url(partner, "deal"))
        assert IBAN in shown(page)
        assert "<textarea" not in page.text
        assert client.post(url(partner, "deal"), {"payment_details": "x"}).status_code == 403

    def test_are_not_to_be_seen_with_their_permission_alone(self, partner: Partner) -> None:
        client = allowed("payment_details")
        for page in ("change", "deal", "history"):
            assert client.get(url(partner, page)).status_code == 403

    def test_are_changed_by_who_may_change_both(self, partner: Partner) -> None:
        client = allowed("view_partner", "change_partner", "payment_details")
        form = opened(client, partner) | {"payment_details": "New account"}
        assert client.post(url(partner, "deal"), form).status_code == 302
        partner.refresh_from_db()
        assert partner.payment_details == "New account"

    def test_are_not_in_the_history(self, staff: Client, partner: Partner) -> None:
        form = opened(staff, partner) | RECORD | {"payment_details": "Another account"}
        assert staff.post(url(partner, "deal"), form).status_code == 302
        [entry] = said(partner)
        for name in ("Payment details", "Contact e-mail", "Notes", "Terms"):
            assert f"{name} from" not in entry
            assert name in entry
        assert "Minimum payout from - to 50" in entry
        assert "Group from - to Bloggers" in entry
        text = shown(staff.get(url(partner, "history")))
        assert "Payment details" in text
        for entry in LogEntry.objects.values_list("change_message", flat=True):
            for value in (IBAN, "Another account", RECORD["email"], RECORD["notes"]):
                assert value not in text
                assert value not in entry

    @pytest.mark.parametrize("may_see", [False, True])
    def test_are_in_the_file_only_with_their_permission(
        self, may_see: bool, partner: Partner
    ) -> None:
        fields = {"minimum_payout": Decimal(50), "minimum_payout_currency": "EUR"}
        Partner.objects.update(email="partners@steep.example", notify=True, **fields)
        client = allowed("view_partner", *(["payment_details"] if may_see else []))
        response: Any = client.get(url(Partner, "csv"))
        [row] = csv.DictReader(response.getvalue().decode("utf-8-sig").splitlines())
        assert row["Contact e-mail"] == "partners@steep.example"
        assert row["Notify by e-mail"] == row["Active"] == "yes"
        assert (row["Minimum payout"], row["Currency of the minimum payout"]) == ("50.00", "EUR")
        assert row.get("Payment details") == (IBAN if may_see else None)

    @pytest.mark.urls("tests.test_admin_partner_record")
    def test_are_nowhere_in_a_hosts_own_fieldsets(self, partner: Partner) -> None:
        page = allowed("view_partner", "change_partner").get(
            f"/host/affiliations/partner/{partner.pk}/deal/"
        )
        assert page.status_code == 200
        assert 'name="name"' in page.text
        assert "0040" not in page.text
        assert 'name="payment_details"' not in page.text


def _urls() -> list[Any]:
    from django.contrib import admin
    from django.urls import include, path

    from affiliations.admin.partners import PartnerAdmin

    class HostsAdmin(PartnerAdmin):
        fieldsets = [(None, {"fields": [["name", "payment_details"], "payment_details"]})]

    site = admin.AdminSite()
    site.register(Partner, HostsAdmin)
    return [
        path("host/", site.urls),
        path("admin/", admin.site.urls),
        path("affiliations/", include("affiliations.urls")),
    ]


urlpatterns = _urls()
