"""
What README.rst and docs/ say, done.

A block of Python says in its first line which file it belongs to. ``# settings.py`` is run as a
project's settings, ``# shop/….py`` as a module of a project's own app, with the order of the test
app as the order of that shop. Blocks with ``>>>`` are doctests.
"""

from __future__ import annotations

import doctest
import inspect
import logging.config
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.urls import path
from django.utils import timezone
from django.utils.module_loading import import_string
from pytest_httpserver import HTTPServer

from affiliations import checks, conversions, models, placeholders, wiring
from affiliations.callbacks import checks as callbacks_checks
from affiliations.callbacks.delivery import deliver
from affiliations.conf import Settings
from affiliations.conf import settings as our_settings
from affiliations.exceptions import Reason
from affiliations.models import Callback, CallbackAttempt, Conversion, Partner, Subscription
from affiliations.options import OPTIONS
from affiliations.triggers import complete_trigger
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.testapp.models import Order
from tests.urls import urlpatterns as usual_urlpatterns

ROOT = Path(__file__).parent.parent
README = ROOT / "README.rst"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.rst"))]

#: Modules of 0.12 that are gone.
RETIRED = ("affiliations.affiliations_settings", "affiliations.tests", "affiliations.utils.")

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
FRIDAY, SATURDAY = date(2026, 11, 27), date(2026, 11, 28)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
pytestmark = pytest.mark.urls(__name__)

order_shipped = Signal()


def buy(request: HttpRequest) -> HttpResponse:
    """Place an order as the page that is tested does."""
    order = import_module("shop.views").place_order(request, total=Decimal("49.90"), currency="EUR")
    return HttpResponse(str(order.pk))


def register(request: HttpRequest) -> HttpResponse:
    """Register a user of the model that has an age."""
    User = import_module("accounts").User
    user = User(**{User.USERNAME_FIELD: "new@shop.example"})
    user.age = int(request.POST["age"])
    user.save()
    return HttpResponse(str(user.pk))


async def ship(request: HttpRequest) -> HttpResponse:
    order = await Order.objects.acreate()
    order.user = None
    await order_shipped.asend(sender=None, order=order, request=request)
    return HttpResponse(str(order.pk))


urlpatterns = [
    *usual_urlpatterns,
    path("buy/", buy),
    path("register/", register),
    path("ship/", ship),
]


class Block(NamedTuple):
    """A ``code-block`` of a page."""

    language: str
    code: str

    @property
    def file(self) -> str:
        """The file that a block of Python belongs to, from its first line."""
        match = re.match(r"# (settings\.py|shop/\w+\.py)\n", self.code)
        assert match, f"A block of Python must say which file it belongs to:\n{self.code}"
        return match[1]


def blocks(page: Path, language: str) -> list[Block]:
    found = re.finditer(
        r"^(?P<indent> *)\.\. code-block:: (?P<language>\S+)\n\n"
        r"(?P<code>(?:(?P=indent)    .*\n|\n)+)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    every = [Block(match["language"], dedent(match["code"]).strip() + "\n") for match in found]
    return [block for block in every if block.language == language]


def settings_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page, "python") if block.file == "settings.py"]


def run_settings(block: Block) -> dict[str, Any]:
    """Run a block as the end of a project's settings and return what it sets."""
    code = block.code
    for name in ("auth.User", "django.contrib.auth.models.User"):
        # The pages speak to a project with Django's own users; this one may have others.
        code = code.replace(f'"{name}"', repr(django_settings.AUTH_USER_MODEL))
    namespace: dict[str, Any] = {
        "INSTALLED_APPS": [app for app in django_settings.INSTALLED_APPS if app != "affiliations"],
        "MIDDLEWARE": [line for line in django_settings.MIDDLEWARE if line != OURS],
    }
    exec(code, namespace)
    return {name: namespace[name] for name in re.findall(r"^([A-Z_]+) \+?= ", code, re.MULTILINE)}


def triggers(page: Path, name: str) -> list[Any]:
    """Return the triggers of the last settings on a page that have one of this name."""
    lists = [run_settings(block).get("AFFILIATE_TRIGGERS", []) for block in settings_blocks(page)]
    return [wired for wired in lists if wired and wired[0][0] == name][-1]


def table(page: Path, title: str) -> list[str]:
    """Return the first column of the table that a page has under this heading of the column."""
    [body] = re.findall(
        rf"^    \* - {title}\n      - .+\n((?:    .*\n)+)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return re.findall(r"^    \* - ``(.+)``$", body, re.MULTILINE)


def leads_somewhere(dotted: str) -> bool:
    try:
        import_module(dotted)
    except ImportError:
        try:
            import_string(dotted)
        except ImportError:
            return False
    return True


@isolate_apps("tests.testapp")
def user_with_an_age() -> type[Any]:
    """Return the user model of a project that has its own; Django's and the tests' know no age."""

    class User(get_user_model()):  # type: ignore[misc] # whichever it is
        age: int

        class Meta:
            app_label = "testapp"
            proxy = True

    return User


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """Make the modules of a page importable, as the app ``shop`` of the reader's project."""

    def add(name: str) -> ModuleType:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    def build(page: Path) -> ModuleType:
        package = add("shop")
        # "shop.Order" as a sender
        package.Order = Order  # type: ignore[attr-defined]
        add("shop.models").Order = Order  # type: ignore[attr-defined]
        # "accounts.User" as a sender
        add("accounts").User = user_with_an_age()  # type: ignore[attr-defined]
        for block in blocks(page, "python"):
            if block.file in ("settings.py", "shop/models.py"):
                continue
            name = block.file.removesuffix(".py").replace("/", ".")
            module = add(name)
            exec(block.code, vars(module))
            setattr(package, name.rpartition(".")[2], module)
        return package

    return build


@pytest.fixture
def steep_notes(db: None) -> Partner:
    """Make the partner of the pages."""
    return PartnerFactory(uid="moox6esi", name="Steep Notes")


@pytest.fixture
def old_rows(steep_notes: Partner) -> None:
    """Write subscriptions as 0.12 let them be written."""
    urls = {
        "Order placed": "https://www.steepnotes.com/track/?id={visitor_id}#tea",
        "Newsletter ordered": "https://www.steepnotes.com/track/?id={visitor_id}",
    }
    Subscription.objects.bulk_create(
        Subscription(partner=steep_notes, trigger=trigger, callback_url=url)
        for trigger, url in urls.items()
    )


@pytest.fixture
def referred(client: Client, steep_notes: Partner) -> Client:
    """Return the browser of somebody who has followed the partner's link."""
    assert client.get("/", {"affiliate_id": steep_notes.uid}).status_code == 302
    return client


def run_doctests(found: Iterator[doctest.DocTest] | list[doctest.DocTest]) -> int:
    """Run doctests; fail with what they say, and return how many lines were run."""
    said: list[str] = []
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test, out=said.append)
    assert said == [], "".join(said)
    return runner.tries


# Code


def test_the_pages_have_code() -> None:
    """Or the tests below would find nothing wrong."""
    assert len(settings_blocks(README)) >= 4
    assert {block.file for block in blocks(DOCS / "triggers.rst", "python")} > {
        "settings.py",
        "shop/triggers.py",
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count(".. code-block:: python\n") == len(blocks(page, "python"))


@every_page
def test_settings_of_a_page_pass_the_checks_and_wire(
    page: Path, shop: Callable[[Path], ModuleType]
) -> None:
    shop(page)
    for block in settings_blocks(page):
        wanted = run_settings(block)
        assert wanted, block.code
        apps = wanted.pop("INSTALLED_APPS", ["affiliations"])
        assert apps.count("affiliations") == 1
        with override_settings(**wanted):
            assert checks.check_middleware() == []
            assert checks.check_settings() == []
            assert len(wiring.read()) == len(django_settings.AFFILIATE_TRIGGERS)


@every_page
def test_what_a_page_types_into_the_shell_answers_as_shown(page: Path, old_rows: None) -> None:
    code = "\n".join(block.code for block in blocks(page, "pycon"))
    parsed = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    assert run_doctests([parsed]) == code.count(">>>")


def test_examples_in_docstrings_answer_as_shown() -> None:
    """Of the modules that have some: those of the task engines import what may not be installed."""
    files = [
        file
        for file in (ROOT / "affiliations").rglob("*.py")
        if ">>>" in file.read_text(encoding="utf-8")
    ]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    finder = doctest.DocTestFinder()
    found = [test for name in names for test in finder.find(import_module(name))]
    assert run_doctests(found) >= 3


@every_page
def test_templates_of_a_page_write_the_absolute_link(page: Path) -> None:
    partner = Partner(uid="moox6esi")
    request = RequestFactory().get("/")
    for block in blocks(page, "html+django"):
        shown = engines["django"].from_string(block.code).render({"partner": partner}, request)
        assert "http://testserver/teas/?sort=new&amp;affiliate_id=moox6esi" in shown


@pytest.mark.parametrize(
    ("day", "age", "counted"),
    [(FRIDAY, 25, 1), (FRIDAY, 50, 1), (FRIDAY, 24, 0), (FRIDAY, 51, 0), (SATURDAY, 30, 0)],
)
@pytest.mark.parametrize("page", [README, DOCS / "triggers.rst"], ids=lambda page: page.name)
def test_the_friday_trigger_counts_fridays_and_users_between_25_and_50(
    page: Path,
    day: date,
    age: int,
    counted: int,
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Registered on a Friday")
    monkeypatch.setattr(timezone, "localdate", lambda: day)
    shop(page)
    wire(triggers(page, "Registered on a Friday"))
    user = get_user_model()._default_manager.get(
        pk=referred.post("/register/", {"age": age}).content.decode()
    )
    assert [c.user for c in Conversion.objects.all()] == [user] * counted
    assert Callback.objects.count() == counted


def test_the_order_is_counted_when_it_is_placed_and_approved_when_it_is_paid(
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, approval="manual")
    package = shop(README)
    wire(triggers(README, "Order placed"))
    order = Order.objects.get(pk=referred.post("/buy/").content)
    conversion = Conversion.objects.get()
    assert (conversion.visitor, conversion.reference) == (order.affiliate_visitor, str(order.pk))
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")
    assert conversion.status == "pending"
    [block] = [found for found in blocks(README, "python") if found.file == "shop/signals.py"]
    comment = block.code.rpartition("#")[2].strip()
    exec(comment, {**vars(package.signals), "Order": Order, "order": order})
    conversion.refresh_from_db()
    assert conversion.status == "approved"


def test_the_shipped_order_is_credited_to_the_visitor_who_placed_it(
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order shipped")
    package = shop(DOCS / "triggers.rst")
    wire(triggers(DOCS / "triggers.rst", "Order shipped"))
    order = Order.objects.get(pk=referred.post("/buy/").content)
    order.user = UserFactory()
    assert not Conversion.objects.exists()
    package.shipping.parcel_left(order)
    conversion = Conversion.objects.get()
    assert conversion.visitor == order.affiliate_visitor
    assert conversion.user == order.user
    assert conversion.reference == str(order.pk)
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")


@pytest.mark.parametrize("page", [README, DOCS / "triggers.rst"], ids=lambda page: page.name)
def test_the_placed_order_is_counted_with_its_reference(
    page: Path,
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order placed")
    shop(page)
    every = [run_settings(block).get("AFFILIATE_TRIGGERS", []) for block in settings_blocks(page)]
    placed = [entry for shown in every for entry in shown if entry[0] == "Order placed"]
    # The last one of the README is of orders that keep their visitor.
    wire(placed[:1] if page == README else placed[-1:])
    key = int(referred.post("/order/").content)
    wanted = str(key) if page == README else f"W{key:06}"
    assert Conversion.objects.get().reference == wanted


def test_a_payment_and_a_refund_decide_by_a_line_each(
    steep_notes: Partner,
    referred: Client,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, approval="manual")
    package = shop(DOCS / "deciding.rst")
    wire(triggers(DOCS / "deciding.rst", "Order placed"))
    order = Order.objects.get(pk=referred.post("/order/").content)
    statuses = [Conversion.objects.get().status]
    for happens in (package.payments.payment_arrived, package.payments.money_given_back):
        happens(order)
        statuses.append(Conversion.objects.get().status)
    assert statuses == ["pending", "approved", "rejected"]
    assert Conversion.objects.get().reason == "Order refunded"


def test_an_order_that_says_itself_whether_it_is_paid_is_approved_then(
    steep_notes: Partner,
    referred: Client,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SubscriptionFactory(partner=steep_notes, approval="manual")
    monkeypatch.setattr(Order, "paid_on", None, raising=False)
    shop(DOCS / "deciding.rst")
    placed, *_ = triggers(DOCS / "deciding.rst", "Order placed")
    paid = ("Order paid", placed[1], "shop.triggers.order_is_paid", Order, {"of": placed[0]})
    wire([placed, paid])
    order = Order.objects.get(pk=referred.post("/order/").content)
    statuses = []
    for paid_on in (None, FRIDAY):
        order.paid_on = paid_on
        order.save()
        statuses.append(Conversion.objects.get().status)
    assert statuses == ["pending", "approved"]


def test_staff_reject_at_their_desk(
    shop: Callable[[Path], ModuleType], db: None, rf: RequestFactory
) -> None:
    request = rf.get("/")
    request.user = UserFactory()
    conversion = ConversionFactory()
    assert shop(DOCS / "deciding.rst").desk.reject(conversion, request)
    stored = Conversion.objects.get()
    assert (stored.status, stored.decided_by) == ("rejected", request.user)


def test_the_async_receiver_credits(
    steep_notes: Partner,
    async_client: AsyncClient,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order shipped")
    shop(DOCS / "triggers.rst")
    wire([("Order shipped", order_shipped, "shop.async_triggers.order_shipped", None)])
    async_to_sync(async_client.get)("/", {"affiliate_id": steep_notes.uid})
    order = async_to_sync(async_client.get)("/ship/").content.decode()
    assert Conversion.objects.get().reference == f"testapp.order:{order}"


@isolate_apps("tests.testapp")
def test_the_field_that_keeps_the_visitor_is_the_one_that_the_tests_use() -> None:
    [block] = [b for b in blocks(DOCS / "triggers.rst", "python") if b.file == "shop/models.py"]
    namespace: dict[str, Any] = {"__name__": "tests.testapp.models"}
    exec(block.code, namespace)
    shown = namespace["Order"]._meta.get_field("affiliate_visitor")
    assert shown.deconstruct() == Order._meta.get_field("affiliate_visitor").deconstruct()


def test_the_logging_lines_say_why_nothing_was_counted(
    db: None, capsys: pytest.CaptureFixture[str]
) -> None:
    every = [run_settings(block) for block in settings_blocks(DOCS / "installation.rst")]
    [config] = [shown["LOGGING"] for shown in every if "LOGGING" in shown]
    ours = logging.getLogger("affiliations")
    before = ours.handlers[:], ours.level
    try:
        logging.config.dictConfig(config)
        visitor = VisitorFactory()
        complete_trigger(None, "Order placed", visitor=visitor, reference="A-17")
    finally:
        ours.handlers[:], level = before
        ours.setLevel(level)
    assert capsys.readouterr().err == (
        "Trigger “Order placed” was not counted: not_subscribed "
        f"(visitor {visitor}, reference “A-17”).\n"
    )


@pytest.mark.parametrize("page", [README, DOCS / "callbacks.rst"], ids=lambda page: page.name)
def test_the_partner_receives_what_is_shown(
    page: Path, steep_notes: Partner, httpserver: HTTPServer, settings: Any
) -> None:
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
    text = page.read_text(encoding="utf-8")
    [url] = re.findall(r"^    (https://www\.yourpartner\.com\S+)$", text, re.MULTILINE)
    [(shown, agent)] = re.findall(
        r"^    GET (\S+) HTTP/1.1\n    Host: www\.yourpartner\.com\n    User-Agent: (.+)/1\.0\.0$",
        text,
        re.MULTILINE,
    )
    SubscriptionFactory(
        partner=steep_notes,
        callback_url=url.replace("https://www.yourpartner.com", httpserver.url_for("").rstrip("/")),
    )
    visitor = VisitorFactory(partner=steep_notes, click_id="42")
    conversions.record(
        visitor, "Order placed", reference="17", amount=Decimal("49.9"), currency="EUR"
    )
    callback = Callback.objects.get()
    httpserver.expect_request("/track/").respond_with_data("")
    deliver([callback.pk])
    [(request, _)] = httpserver.log
    received = f"{request.path}?{request.query_string.decode()}"
    assert received == re.sub(r"[0-9a-f]{32}", callback.webhook_id, shown)
    assert (request.method, request.headers["User-Agent"].split("/")[0]) == ("GET", agent)


def test_the_lines_that_attempt_what_is_due_do(
    db: None, httpserver: HTTPServer, settings: Any
) -> None:
    settings.AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES = True
    httpserver.expect_request("/due").respond_with_data("")
    callback = CallbackFactory(url=httpserver.url_for("/due"))
    [block] = [b for b in blocks(DOCS / "callbacks.rst", "pycon") if "deliver(" in b.code]
    parsed = doctest.DocTestParser().get_doctest(block.code, {}, "callbacks.rst", None, 0)
    run_doctests([parsed])
    callback.refresh_from_db()
    assert callback.status == Callback.Status.DELIVERED


def test_the_link_of_the_readme_leads_where_it_says(client: Client, steep_notes: Partner) -> None:
    text = README.read_text(encoding="utf-8")
    link, page = re.findall(r"``https://www\.yoursite\.com(/.*?)``", text)[:2]
    assert client.get(link).headers["Location"] == page


@every_page
def test_every_dotted_path_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dotted = set(re.findall(r"``\"?((?:affiliations|django)(?:\.\w+)+)\"?(?:\(\))?``", text))
    assert {name for name in dotted if not leads_somewhere(name)} == {
        name for name in dotted if name.startswith(RETIRED)
    }


# Lists that must be whole


def documented_settings(page: Path) -> dict[str, str]:
    """Map each setting that a page explains to the default that it shows."""
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"^``(AFFILIATE_\w+)(?: = |``, )(.+)\n    \S", text, re.MULTILINE)
    sections = re.findall(r"^(AFFILIATE_\w+)\n~+\n\nDefault: (.+)$", text, re.MULTILINE)
    return {name: default.strip("`") for name, default in lines + sections}


@pytest.mark.parametrize("page", [README, DOCS / "settings.rst"], ids=lambda page: page.name)
def test_every_setting_is_listed_with_its_default(page: Path) -> None:
    properties = {
        setting: name
        for name, value in vars(Settings).items()
        if isinstance(value, property)
        for setting in re.findall(r"^``(AFFILIATE_\w+)``", value.fget.__doc__)
    }
    shown = documented_settings(page)
    assert sorted(shown) == sorted(properties)
    assert shown.pop("AFFILIATE_TRIGGERS") == "mandatory"
    for setting, default in shown.items():
        with override_settings():
            delattr(django_settings, setting)
            really = getattr(our_settings, properties[setting])
            value = eval(default, {"timedelta": timedelta})
            setattr(django_settings, setting, value)
            assert getattr(our_settings, properties[setting]) == really, setting


def test_every_check_is_explained() -> None:
    code = inspect.getsource(checks) + inspect.getsource(callbacks_checks)
    ids = set(re.findall(r"\b[EW]\d{3}\b", code))
    text = (DOCS / "checks.rst").read_text(encoding="utf-8")
    assert re.findall(r"^.*affiliations\.([EW]\d{3}).*\n[-~=^]{5,}$", text, re.M) == sorted(ids)


def test_every_placeholder_is_explained() -> None:
    shown = [name.strip("{}") for name in table(DOCS / "callbacks.rst", "Placeholder")]
    assert tuple(shown) == placeholders.NAMES


def test_the_readme_names_every_placeholder() -> None:
    text = README.read_text(encoding="utf-8")
    [sentence] = re.findall(r"\nThe placeholders are (.+?)\. The Admin", text, re.DOTALL)
    sentence = sentence.replace("``{sub1}`` to ``{sub5}``", "{sub1} {sub2} {sub3} {sub4} {sub5}")
    assert tuple(re.findall(r"\{(\w+)\}", sentence)) == placeholders.NAMES


def test_every_error_of_an_attempt_is_explained() -> None:
    assert table(DOCS / "callbacks.rst", "Error") == CallbackAttempt.Error.values


def test_every_status_of_a_callback_is_explained() -> None:
    text = (DOCS / "callbacks.rst").read_text(encoding="utf-8")
    explained = re.findall(r"^``(\w+)``\n    \w", text, re.MULTILINE)
    assert set(explained) == set(Callback.Status.values)


def test_every_reason_is_explained() -> None:
    assert table(DOCS / "support.rst", "Reason") == [reason.value for reason in Reason]


def test_every_key_of_the_fifth_item_is_explained() -> None:
    assert tuple(table(DOCS / "triggers.rst", "Key")) == OPTIONS


def test_complete_trigger_takes_the_arguments_that_are_explained() -> None:
    text = (DOCS / "triggers.rst").read_text(encoding="utf-8")
    [shown] = re.findall(r"``complete_trigger(\(request.+?\))``", text, re.DOTALL)
    explained = re.findall(r"^(``request``|``name``|``instance``|``visitor``.+)\n    ", text, re.M)
    parameters = inspect.signature(complete_trigger).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert " ".join(shown.split()) == str(inspect.Signature(plain))
    assert re.findall(r"\w+", " ".join(explained)) == [p.name for p in parameters]


def test_every_field_that_the_readme_names_exists() -> None:
    text = README.read_text(encoding="utf-8")
    section = text.partition("\nModels explanation\n")[2].partition("\nTriggers\n---")[0]
    explained = re.split(r"\bA \*\*(\w+)\*\* ", section.replace("callback attempt", "attempt"))
    named = dict(zip(explained[1::2], explained[2::2], strict=True))
    assert {"partner", "subscription", "visitor", "conversion"} <= set(named)
    for model in ("partner", "subscription", "visitor"):
        fields = {field.name for field in getattr(models, model.capitalize())._meta.get_fields()}
        bullets = re.findall(r"^- (.+?)(?::|$)", named[model], re.MULTILINE)
        shown = set(re.findall(r"``(\w+)``", " ".join(bullets)))
        assert shown, model
        assert shown <= fields, model
    fields = {field.name for field in Conversion._meta.get_fields()}
    assert set(re.findall(r"``(\w+)``", named["conversion"])) <= fields


def test_every_room_is_in_the_picture_of_the_house() -> None:
    text = (DOCS / "architecture.rst").read_text(encoding="utf-8")
    picture = text.partition("::\n\n")[2].partition("\n\nModules on")[0]
    package = ROOT / "affiliations"
    rooms = {
        file.relative_to(package).parts
        for file in package.rglob("*.py")
        if file.name != "__init__.py" and "migrations" not in file.parts
    }
    assert {parts[-1] for parts in rooms if parts[0] != "templatetags"} == set(
        re.findall(r"\b(?<!templatetags/)\w+\.py\b", picture)
    )


def test_tox_knows_the_environments_of_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    tox = (ROOT / "tox.ini").read_text(encoding="utf-8")
    named = re.findall(r"tox -e (\w+)", text)
    assert named
    assert all(f"[testenv:{name}]" in tox for name in named)
