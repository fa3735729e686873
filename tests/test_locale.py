"""The catalogs are sound, all texts on pages can be translated, and Danish pages are in Danish."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import read_mo
from django.apps import apps
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import translation

from affiliations.admin.pages import ObjectViewsMixin
from affiliations.models import (
    Conversion,
    Partner,
    PartnerCode,
    RecentFilteredClick,
    Settlement,
    Subscription,
    Visitor,
)
from tests.factories import ConversionFactory, PartnerFactory, UserFactory
from tests.shop import furnish, pages
from tests.test_admin import partner_form, shown, subscribed, url
from tests.test_admin_conversions import choose
from tests.translations import LANGUAGES, file, key, messages, read_catalog, strings

# No database puts it in other words.
pytestmark = pytest.mark.only_on("sqlite")

#: What a translation has to keep: placeholders, escaped characters, and the tags of HTML.
KEPT = re.compile(r"%\(\w+\)\w|%%|\{\w+\}|&\w+;|</?\w+>|AFFILIATE_\w+|https?://")


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def catalog(language: str) -> Catalog:
    return read_catalog(language)


def translated(catalog: Catalog) -> Iterator[Message]:
    """Yield the messages that are compiled: those with a translation that is not fuzzy."""
    return (one for one in messages(catalog) if all(strings(one)) and not one.fuzzy)


def test_the_catalog_is_valid(catalog: Catalog) -> None:
    assert [(message.id, errors) for message, errors in catalog.check()] == []


def test_a_translation_keeps_placeholders_tags_and_the_blanks_around_it(catalog: Catalog) -> None:
    broken = []
    for message in translated(catalog):
        ids = message.id if message.pluralizable else (message.id,)
        for number, text in enumerate(strings(message)):
            original = ids[min(number, len(ids) - 1)]
            if (
                sorted(KEPT.findall(text)) != sorted(KEPT.findall(original))
                or text[: -len(text.lstrip())] != original[: -len(original.lstrip())]
                or text.endswith(" ") != original.endswith(" ")
            ):
                broken.append((original, text))
    assert broken == []


def test_there_are_as_many_plurals_as_the_language_has(catalog: Catalog) -> None:
    counts = {len(strings(one)) for one in messages(catalog) if one.pluralizable}
    assert counts == {catalog.num_plurals}


def test_what_is_compiled_is_the_catalog(language: str, catalog: Catalog) -> None:
    """Run ``django-admin compilemessages`` in ``affiliations`` and commit what it makes."""
    with file(language, "mo").open("rb") as opened:
        compiled = read_mo(opened)
    assert {key(one): strings(one) for one in messages(compiled)} == {
        key(one): strings(one) for one in translated(catalog)
    }
    assert compiled.plural_expr == catalog.plural_expr


class Texts(HTMLParser):
    """What somebody reads on a page, or hears."""

    SPOKEN = {"alt", "aria-label", "placeholder", "title"}
    SILENT = {"script", "style", "code", "textarea"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.silent = 0
        # A name that keeps its direction to itself is a part of its sentence.
        self.feed(re.sub("</?bdi>", "", page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in self.SILENT
        given = dict(attrs)
        is_button = tag == "input" and given.get("type") in ("submit", "button")
        spoken = self.SPOKEN | ({"value"} if is_button else set())
        self.found += [value or "" for name, value in attrs if name in spoken]

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in self.SILENT

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.found.append(" ".join(data.split()))


@pytest.fixture
def read_everything(staff: Client) -> Callable[[], dict[str, str]]:
    """Return a function that reads every page that staff and a partner have."""
    rows = furnish()
    partner = rows["partner"]
    partner.replace_page_link()
    link = partner.page_link()
    addresses = [address for _name, address in pages(rows)]
    for row in rows.values():
        addresses.append(url(row, "history"))
        its_admin = admin.site._registry[type(row)]
        if isinstance(its_admin, ObjectViewsMixin):
            addresses += [url(row, page) for page in its_admin.object_views]
    report = reverse("admin:affiliations_report_changelist")
    addresses += [
        f"{report}?interval=day&dimension=partner",
        f"{report}?interval=week&dimension=trigger",
        f"{report}?period=custom&first=nothing&sub=sub1&label=x&dimension=sub1",
        url(Settlement, "add"),
        f"{url(Settlement, 'add')}?until=nothing",
        link,
        f"{link}settlements/{rows['settlement'].pk}/",
    ]
    mistaken = subscribed(callback_url="https://x.example/{clickid}", payout_value="7")
    forms = [
        (url(Partner, "add"), partner_form(mistaken, name="")),
        (url(Conversion), choose(list(Conversion.objects.all()), "reject_selected")),
        (url(rows["visitor"], "credit"), {}),
    ]

    def read() -> dict[str, str]:
        answers = {address: staff.get(address, follow=True) for address in dict.fromkeys(addresses)}
        answers |= {f"{address}, sent": staff.post(address, form) for address, form in forms}
        assert {answer.status_code for answer in answers.values()} == {200}
        return {address: answer.text for address, answer in answers.items() if not answer.streaming}

    return read


def marked(text: str, *_plural: Any) -> str:
    return f"⟦{text}⟧"


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Translate into a language that writes marks around each text."""
    translation.gettext("")  # Django chooses who translates at the first text
    real = translation._trans
    monkeypatch.setattr(real, "gettext", marked)
    monkeypatch.setattr(real, "ngettext", lambda one, many, n: marked(one if n == 1 else many))
    monkeypatch.setattr(real, "pgettext", lambda _context, text: marked(text))
    monkeypatch.setattr(
        real, "npgettext", lambda _context, one, many, n: marked(one if n == 1 else many)
    )


def unmarked(text: str) -> str:
    """Take away what is translated, which may hold other texts, or be cut at its end."""
    depth, left = 0, []
    for letter in text:
        depth += letter == "⟦"
        if not depth:
            left.append(letter)
        depth -= letter == "⟧"
    return "".join(left)


def data() -> re.Pattern[str]:
    """Return what stands on pages and is in no language: names, codes and addresses."""
    urls = Subscription.objects.values_list("callback_url", flat=True)
    texts = [
        # Names of the furnished shop, and of the settings.
        *Partner.objects.values_list("name", flat=True),
        *Partner.objects.values_list("uid", flat=True),
        *PartnerCode.objects.values_list("code", flat=True),
        *RecentFilteredClick.objects.values_list("uid", flat=True),
        *Subscription.objects.values_list("trigger", flat=True),
        *Settlement.objects.values_list("reference", flat=True),
        *filter(None, Visitor.objects.values_list("sub1", flat=True)),
        *(urlsplit(url).netloc for url in urls if url),
        *filter(None, "\n".join(Partner.objects.values_list("terms", flat=True)).splitlines()),
        *("staff", "testserver", "Down for maintenance", "OperationalError", "database is locked"),
        # Other apps beside ours in the Admin.
        *(str(app.verbose_name) for app in apps.get_app_configs() if app.label != "affiliations"),
        # The same in all languages.
        *("HTTP", "GET", "EUR", "ID", "Id", "CSV", "Firefox", "Chrome", "Safari"),
        # Texts for the icons of Django's Admin, which it does not translate.
        *("True", "False", "Search"),
    ]
    names = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    return re.compile(rf"https?://\S+|\S+@\S+|\b\w*\d\w*\b|(?<!\w)({names})(?!\w)")


@pytest.mark.slow
def test_every_word_that_somebody_reads_can_be_translated(
    read_everything: Callable[[], dict[str, str]], marking: None
) -> None:
    known = data()
    untranslatable = {
        (address, text)
        for address, page in read_everything().items()
        for text in Texts(page).found
        if re.search(r"[^\W\d_]{2,}", known.sub("", unmarked(text)))
    }
    assert untranslatable == set()


@pytest.fixture
def danish(db: None, settings: Any) -> Client:
    """Return a browser whose reader has Danish first, on a site that speaks English by itself."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    client = Client(headers={"accept-language": "da, en;q=0.5"})
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    return client


def earned(**fields: Any) -> Conversion:
    """Make a conversion that earns 1,234.50 EUR."""
    return ConversionFactory(
        payout_type="fixed",
        payout_value=Decimal("1234.5"),
        payout=Decimal("1234.5"),
        payout_currency="EUR",
        **fields,
    )


def test_the_admin_writes_words_days_and_money_as_danes_do(danish: Client) -> None:
    conversion = earned(created_on=datetime(2026, 11, 3, 12, tzinfo=timezone.utc))
    text = shown(danish.get(url(conversion)))
    for words in ("3. november 2026 12:00", "Provisionen er 1234,50 EUR, et fast beløb.", "Afvis"):
        assert words in text
    assert "Konverteringer" in shown(danish.get(reverse("admin:index")))


def test_the_page_of_a_partner_writes_words_and_money_as_danes_do(danish: Client) -> None:
    partner = PartnerFactory()
    visitor = Visitor.objects.create(partner=partner)
    earned(visitor=visitor, status="approved", decided_on=datetime.now(timezone.utc))
    partner.replace_page_link()
    page = danish.get(partner.page_link())
    assert '<html lang="da"' in page.text
    for words in ("Dit sporingslink", "1234,50 EUR", "Godkendt, endnu ikke med i en opgørelse:"):
        assert words in shown(page)


def test_a_file_for_a_dane_has_danish_headings(danish: Client) -> None:
    earned()
    lines = b"".join(danish.get(url(Conversion, "csv"))).decode().splitlines()
    assert "Provision" in lines[0].split(";")
    assert "1234,50" in lines[1].split(";")


def test_a_reader_of_neither_gets_english(danish: Client) -> None:
    page = danish.get(reverse("admin:index"), headers={"accept-language": "tlh"})
    assert "Conversions" in shown(page)
