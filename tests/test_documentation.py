"""
The code of README.rst and docs/ runs, and the names in it exist.

A block of Python says in its first line which file it belongs to. ``# settings.py`` is run as a
project's settings, ``# shop/….py`` as a module of a project's own app, with the order of the test
app as the order of that shop. Blocks with ``>>>`` are doctests.
"""

from __future__ import annotations

import doctest
import logging.config
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.management import get_commands, load_command_class
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.urls import path
from django.utils import timezone
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt
from pytest_httpserver import HTTPServer

from affiliations import (
    checks,
    partner_import,
    privacy,
    registry,
    signals,
)
from affiliations.callbacks import maintenance, slots, suspension, transport
from affiliations.callbacks.worker import deliver
from affiliations.conf import settings as our_settings
from affiliations.conversions import recording
from affiliations.exceptions import Reason
from affiliations.models import (
    Callback,
    Conversion,
    Partner,
    PartnerCode,
    Subscription,
    Visitor,
)
from affiliations.reports import rollups
from affiliations.reports.queries import LIMIT
from affiliations.triggers import complete_trigger
from tests.documented import (
    DOCS,
    README,
    ROOT,
    add_module,
    add_shop,
    blocks,
    run_settings,
    settings_blocks,
    triggers,
)
from tests.factories import (
    CallbackFactory,
    ConversionFactory,
    PartnerFactory,
    SubscriptionFactory,
    UserFactory,
    VisitorFactory,
)
from tests.test_conf import properties_by_setting
from tests.test_public_api import MODULES, SUBPACKAGES
from tests.testapp.models import Newsletter, Order
from tests.urls import urlpatterns as usual_urlpatterns

SECURITY = ROOT / "SECURITY.md"
CHANGELOG = ROOT / "CHANGELOG.rst"
PAGES = [README, *sorted(DOCS.rglob("*.rst"))]

#: Modules of 0.12 that are gone.
RETIRED = ("affiliations.affiliations_settings", "affiliations.tests", "affiliations.utils.")

FRIDAY, SATURDAY = date(2026, 11, 27), date(2026, 11, 28)

#: Those whose names hosts import or write into their settings; the last loads what sends.
PUBLIC_MODULES = {*MODULES, "affiliations.background"}

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


def payment(request: HttpRequest, step: str) -> HttpResponse:
    answer: HttpResponse = getattr(import_module("shop.payment"), step)(request)
    return answer


@csrf_exempt
def payment_returned(request: HttpRequest) -> HttpResponse:
    return payment(request, "returned")


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
    path("payment/returned/", payment_returned),
    path("payment/done/", payment, {"step": "done"}),
]


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

    def stub(dotted: str, value: Any) -> None:
        name, _, attribute = dotted.rpartition(".")
        setattr(sys.modules.get(name) or add_module(monkeypatch, name), attribute, value)

    def build(page: Path) -> ModuleType:
        stub("accounts.User", user_with_an_age())
        # packages that a page shows, which `tox -e hosts` tries
        for dotted in (
            "oscar.apps.order.signals.order_placed",
            "oscar.apps.order.signals.order_status_changed",
            "allauth.account.signals.email_confirmed",
            "allauth.account.signals.user_signed_up",
            "djstripe.Event",
        ):
            stub(dotted, Signal())
        stub("wagtailforms.FormSubmission", Newsletter)
        stub("djstripe.signals.WEBHOOK_SIGNALS", defaultdict(Signal))
        stub("rest_framework.decorators.api_view", lambda methods: csrf_exempt)
        stub("rest_framework.response.Response", HttpResponse)
        stub("rest_framework.serializers.ModelSerializer", object)
        stub("rest_framework.viewsets.ModelViewSet", object)
        add_module(monkeypatch, "stripe")
        return add_shop(monkeypatch, page, Order)

    return build


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Undo what the logging settings of a page do."""
    ours = logging.getLogger("affiliations")
    handlers, level = ours.handlers[:], ours.level
    yield
    ours.handlers[:] = handlers
    ours.setLevel(level)


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


def test_the_pages_have_code() -> None:
    """Or the tests below would find nothing wrong."""
    assert len(settings_blocks(README)) >= 4
    assert {block.file for block in blocks(DOCS / "guides/triggers.rst", "python")} > {
        "settings.py",
        "shop/triggers.py",
    }
    for page in PAGES:
        if page.parent.name == "tutorial":
            continue  # test_tutorial.py runs its code, in a project of its own.
        text = page.read_text(encoding="utf-8")
        assert text.count(".. code-block:: python\n") == len(blocks(page, "python"))


@every_page
@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.usefixtures("logging_restored")
def test_settings_of_a_page_pass_the_checks_and_wire(
    page: Path, kind: type[Any], shop: Callable[[Path], ModuleType]
) -> None:
    shop(page)
    for block in settings_blocks(page):
        wanted = run_settings(block, kind)
        assert wanted, block.code
        apps = wanted.pop("INSTALLED_APPS", ["affiliations"])
        assert apps.count("affiliations") == 1
        with override_settings(**wanted):
            assert checks.check_middleware() == []
            assert checks.check_settings() == []
            assert checks.check_names() == []
            assert checks.check_staff_namespaces() == []
            assert len(registry.read()) == len(django_settings.AFFILIATE_TRIGGERS)


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
def test_the_friday_trigger_counts_fridays_and_users_between_25_and_50(
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
    shop(DOCS / "guides/triggers.rst")
    wire(triggers(DOCS / "guides/triggers.rst", "Registered on a Friday"))
    user = get_user_model()._default_manager.get(
        pk=referred.post("/register/", {"age": age}).content.decode()
    )
    assert [c.user for c in Conversion.objects.all()] == [user] * counted
    assert Callback.objects.count() == counted


def test_the_banks_post_is_continued_with_the_visitors_cookies(
    referred: Client, steep_notes: Partner, shop: Callable[[Path], ModuleType]
) -> None:
    """Browsers send no SameSite=Lax cookie with the POST of another site; test_browser.py shows."""
    SubscriptionFactory(partner=steep_notes, trigger="Order placed", counting="every")
    session = referred.cookies["sessionid"].value
    shop(DOCS / "guides/outside_requests.rst")
    bank = Client(enforce_csrf_checks=True)

    assert bank.post("/buy/").status_code == 403
    answer = bank.post("/payment/returned/", {"payment": "P 17"})

    assert bank.cookies == {}
    assert not Conversion.objects.exists()
    for _ in range(2):  # The page is reloaded.
        assert referred.get(answer["Location"]).status_code == 200
    assert referred.cookies["sessionid"].value == session
    assert Order.objects.get().note == "P 17"
    assert Conversion.objects.get().partner == steep_notes


def test_the_order_of_a_caller_is_credited(
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes)
    page = DOCS / "guides/referring.rst"
    desk: Any = shop(page).desk  # type: ignore[attr-defined]
    wire(triggers(page, "Order placed"))
    user = UserFactory()
    order = desk.take_order("moox6esi", user, total=Decimal("49.90"), currency="EUR")
    conversion = Conversion.objects.get()
    assert (conversion.visitor, conversion.partner) == (order.affiliate_visitor, steep_notes)
    assert (conversion.visitor.user, conversion.visitor.source) == (user, "api")
    assert conversion.amount == Decimal("49.90")
    desk.take_order("unknown1", user)
    assert Conversion.objects.count() == 1


def test_the_claim_of_an_agent_counts_only_with_the_token_of_the_partner(
    steep_notes: Partner, shop: Callable[[Path], ModuleType]
) -> None:
    agents: Any = shop(DOCS / "guides/referring.rst").agents  # type: ignore[attr-defined]
    token = agents.token_of(steep_notes)
    for claim in (
        None,
        [],
        "token",
        {},
        {"token": None},
        {"token": 1},
        {"token": "moox6esi"},
        {"token": [token]},
        {"token": "\ud800" + token},
        {"token": token + "\ud800"},
        {"token": "x" * 1_000_000},
        {"publisher_id": "moox6esi"},
    ):
        assert agents.visitor_of(claim) is None
    visitor = agents.visitor_of({"token": token, "sub_id": "42", "campaign_id": ["a"]})
    assert (visitor.partner, visitor.click_id, visitor.sub1) == (steep_notes, "42", "")


def whitenoise(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer for a static page, as WhiteNoise does, whatever the query is."""
    return lambda request: (
        HttpResponse("static") if request.path == "/teas/" else get_response(request)
    )


def test_a_static_page_counts_clicks_in_the_place_that_the_page_gives_whitenoise(
    client: Client, steep_notes: Partner, settings: Any, django_assert_num_queries: Any
) -> None:
    [lines] = [
        run_settings(block)["MIDDLEWARE"]
        for block in settings_blocks(DOCS / "guides/caching.rst")
        if "whitenoise" in block.code
    ]
    name = "whitenoise.middleware.WhiteNoiseMiddleware"
    below = [f"{__name__}.whitenoise" if line == name else line for line in lines]
    link = steep_notes.link("/teas/")

    settings.MIDDLEWARE = [below[0], below[-1], *below[1:-1]]  # as WhiteNoise says
    assert client.get(link).content == b"static"
    assert not Visitor.objects.exists()

    settings.MIDDLEWARE = below
    client = Client()
    response = client.get(link)
    assert (response.status_code, response["Location"]) == (302, "/teas/")
    assert Visitor.objects.get().entry_point == "http://testserver/teas/"
    with django_assert_num_queries(0):
        page = client.get(response["Location"])
    assert page.content == b"static"
    assert not page.has_header("Vary")


def test_the_shipped_order_is_credited_to_the_visitor_who_placed_it(
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order shipped")
    shop(DOCS / "guides/outside_requests.rst")
    package = shop(DOCS / "guides/triggers.rst")
    wire(triggers(DOCS / "guides/triggers.rst", "Order shipped"))
    order = Order.objects.get(pk=referred.post("/buy/").content)
    order.user = UserFactory()
    assert not Conversion.objects.exists()
    package.shipping.parcel_left(order)
    conversion = Conversion.objects.get()
    assert conversion.visitor == order.affiliate_visitor
    assert conversion.user == order.user
    assert conversion.reference == str(order.pk)
    assert (conversion.amount, conversion.currency) == (Decimal("49.90"), "EUR")


@pytest.mark.parametrize(
    ("page", "reference"),
    [(README, "{}"), (DOCS / "reference/triggers.rst", "W{:06}")],
    ids=["README", "reference"],
)
def test_the_placed_order_is_counted_with_its_reference(
    page: Path,
    reference: str,
    referred: Client,
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order placed")
    shop(DOCS / "guides/outside_requests.rst")
    wire(triggers(page, "Order placed"))
    key = int(referred.post("/buy/").content)
    assert Conversion.objects.get().reference == reference.format(key)


def test_a_quote_states_its_amount(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], wire: Callable[[list[Any]], None]
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Quote accepted")
    quotes: Any = shop(DOCS / "guides/triggers.rst").quotes
    options = {"visitor": "affiliate_visitor", "currency": "currency"}
    wire([("Quote accepted", order_shipped, quotes.quote_accepted, None, options)])
    visitor = VisitorFactory(partner=steep_notes)
    quote = Order.objects.create(affiliate_visitor=visitor, total=50, currency="EUR")
    quote.net = lambda: Decimal(40)
    order_shipped.send(None, instance=quote)
    assert Conversion.objects.get().amount == 40


def test_the_commission_is_of_the_goods_alone(
    steep_notes: Partner,
    referred: Client,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order placed")
    for cost in ("shipping", "tax"):
        monkeypatch.setattr(Order, cost, Decimal(5), raising=False)
    shop(DOCS / "guides/outside_requests.rst")
    shop(DOCS / "guides/amounts.rst")
    wire(triggers(DOCS / "guides/amounts.rst", "Order placed"))
    package = import_module("shop")
    package.views = sys.modules["shop.views"]  # type: ignore[attr-defined]
    referred.post("/buy/")
    assert Conversion.objects.get().amount == Decimal("39.90")


def test_a_coupon_on_the_order_credits_its_partner(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], wire: Callable[[list[Any]], None]
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order placed")
    PartnerCode.objects.create(partner=steep_notes, code="steepnotes")
    shop(DOCS / "guides/codes.rst")
    wire(triggers(DOCS / "guides/codes.rst", "Order placed"))
    Order.objects.create(note="SUMMER SteepNotes", total=40, currency="EUR")
    assert Conversion.objects.get().partner == steep_notes


def test_a_renewal_is_credited_long_after_the_click(
    steep_notes: Partner, shop: Callable[[Path], ModuleType]
) -> None:
    months: dict[str, Any] = {"earns_for": "months", "earns_months": 12, "counting": "every"}
    rule = SubscriptionFactory(partner=steep_notes, trigger="Order placed", **months)
    webhooks: Any = shop(DOCS / "guides/renewals.rst").webhooks
    long_ago = timezone.now() - timedelta(days=200)
    user = UserFactory()
    visitor = VisitorFactory(partner=steep_notes, user=user, referred_on=long_ago)
    ConversionFactory(visitor=visitor, subscription=rule, user=user, created_on=long_ago)
    webhooks.subscription_renewed(user, "2026-12", Decimal(20))
    webhooks.subscription_renewed(UserFactory(), "2026-13", Decimal(20))
    assert Conversion.objects.latest("pk").reference == "2026-12"
    assert Conversion.objects.count() == 2


def test_each_site_has_a_trigger_and_links_pass_the_visitor_on(
    steep_notes: Partner,
    client: Client,
    rf: RequestFactory,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    page = DOCS / "guides/several_sites.rst"
    package: Any = shop(page)
    wire(triggers(page, "Order in Denmark"))
    for country in ("Denmark", "Germany"):
        SubscriptionFactory(
            partner=steep_notes, trigger=f"Order in {country}", closes_referral=False
        )
    client.get("/", {"affiliate_id": steep_notes.uid, "click_id": "42"})
    visitor = Visitor.objects.get()
    for currency in ("DKK", "EUR", "SEK"):
        Order.objects.create(affiliate_visitor=visitor, total=40, currency=currency)
    assert list(Conversion.objects.order_by("pk").values_list("trigger", "currency")) == [
        ("Order in Denmark", "DKK"),
        ("Order in Germany", "EUR"),
    ]
    links = []
    for browser in (client, Client()):
        request = rf.get("/")
        request.session = browser.session
        links.append(package.sites.link_to_other_site(request, "https://shop.example/"))
    assert links == [
        "https://shop.example/?affiliate_id=moox6esi&click_id=42",
        "https://shop.example/",
    ]


def test_imported_orders_are_not_credited(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], wire: Callable[[list[Any]], None]
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order placed", counting="every")
    imports: Any = shop(DOCS / "guides/imports.rst").imports
    user = UserFactory()
    VisitorFactory(partner=steep_notes, user=user)
    wire(triggers(README, "Order placed"))
    with override_settings(AFFILIATE_ATTRIBUTE_BY_USER=True):
        imports.import_orders([{"number": "1", "user": user}])
        assert not Conversion.objects.exists()
        Order.objects.create(note="2", user=user)
    assert Conversion.objects.count() == 1


def test_a_partner_is_stopped_and_a_customer_from_before_is_reviewed(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], rf: RequestFactory
) -> None:
    package: Any = shop(DOCS / "guides/fraud.rst")
    visitor = VisitorFactory(partner=steep_notes)
    customer: Any = UserFactory()
    customer.date_joined = visitor.referred_on - timedelta(days=1)  # Not all users have it.
    assert package.screening.new_customers_only(visitor, customer, None)
    assert package.screening.new_customers_only(visitor, None, None) is None
    request = rf.get("/")
    request.user = customer
    assert package.fraud.stop(steep_notes, request) == 0
    assert Partner.objects.get().stopped_by == customer


def test_the_figures_of_a_week_are_printed_by_day(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    visitor = VisitorFactory(partner=steep_notes)
    money = {"payout": 5, "payout_currency": "EUR", "amount": 50, "currency": "EUR"}
    ConversionFactory(visitor=visitor, **money)
    per_click, revenue = shop(DOCS / "guides/reports_from_code.rst").week.figures()  # type: ignore[attr-defined]
    assert (per_click, revenue) == ({"EUR": 5}, {"EUR": 50})
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_a_closed_account_leaves_no_click_id(
    steep_notes: Partner, shop: Callable[[Path], ModuleType]
) -> None:
    user = UserFactory()
    VisitorFactory(partner=steep_notes, user=user, click_id="42")
    shop(DOCS / "guides/purging.rst").accounts.close_account(user)  # type: ignore[attr-defined]
    visitor = Visitor.objects.get()
    assert (visitor.click_id, visitor.user) == ("", None)


def test_a_payment_and_a_refund_decide_by_a_line_each(
    steep_notes: Partner,
    referred: Client,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, approval="manual")
    signals_of_shop: Any = shop(DOCS / "guides/approving.rst").signals
    wire(triggers(DOCS / "guides/approving.rst", "Order placed"))
    order = Order.objects.get(pk=referred.post("/order/").content)
    statuses = [Conversion.objects.get().status]
    for happens in (signals_of_shop.order_paid, signals_of_shop.order_refunded):
        happens.send(sender=Order, instance=order)
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
    shop(DOCS / "guides/approving.rst")
    placed, *_ = triggers(DOCS / "guides/approving.rst", "Order placed")
    paid = ("Order paid", placed[1], "shop.triggers.order_is_paid", Order, {"of": placed[0]})
    wire([placed, paid])
    order = Order.objects.get(pk=referred.post("/order/").content)
    statuses = []
    for paid_on in (None, FRIDAY):
        order.paid_on = paid_on
        order.save()
        statuses.append(Conversion.objects.get().status)
    assert statuses == ["pending", "approved"]


def test_a_refund_adjusts_the_conversion_of_its_order(
    steep_notes: Partner,
    referred: Client,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    percent = {"payout_type": "percent", "payout_value": Decimal(10)}
    SubscriptionFactory(partner=steep_notes, trigger="Sale", **percent)
    package = shop(DOCS / "guides/approving.rst")
    wire(triggers(DOCS / "guides/approving.rst", "Sale"))
    order = Order.objects.get(pk=referred.post("/order/").content)
    Conversion.objects.update(
        status="approved", amount=100, currency="EUR", payout=10, payout_currency="EUR"
    )
    order.total = Decimal(100)
    refunds = [SimpleNamespace(order=order, amount=Decimal(amount)) for amount in (30, 10)]
    order.refunds = SimpleNamespace(all=lambda: refunds)
    package.returns.refund_saved(refunds[0])
    assert Conversion.objects.get().current_payout == 6


def test_all_partners_who_were_imported_are_subscribed_once(
    steep_notes: Partner, shop: Callable[[Path], ModuleType]
) -> None:
    SubscriptionFactory(trigger="Sale")
    moving: Any = shop(DOCS / "guides/moving.rst").moving
    for _ in range(2):
        moving.subscribe()
    assert [rule.trigger for rule in Subscription.objects.order_by("pk")] == [
        "Sale",
        "Order placed",
    ]
    Subscription.objects.get(partner=steep_notes).full_clean()


def test_the_file_of_the_import_can_be_imported(db: None) -> None:
    [block] = [
        row for row in blocks(DOCS / "guides/moving.rst", "text") if row.code.startswith("name,")
    ]
    plan = partner_import.plan(block.code)
    assert plan.mistakes == []
    assert [partner.name for partner in plan.created] == ["Steep Notes", "The Cup"]
    assert [code.code for code in plan.codes] == ["partner-17", "STEEP10"]


def paid(partner: Partner, order: Order, trigger: str = "Order placed") -> list[Decimal | None]:
    """Let a new visitor of a partner complete a trigger; return all payouts so far."""
    visitor = VisitorFactory(partner=partner)
    money = {"amount": order.total, "currency": "EUR"}
    complete_trigger(None, trigger, instance=order, visitor=visitor, **money)
    return list(Conversion.objects.order_by("pk").values_list("payout", flat=True))


def test_a_payout_by_product_is_the_sum_of_its_lines(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], settings: Any
) -> None:
    tens: dict[str, Any] = {"payout_type": "percent", "payout_value": 10}
    for trigger in ("Order placed", "Sale"):
        SubscriptionFactory(partner=steep_notes, trigger=trigger, counting="every", **tens)
    shop(DOCS / "guides/payouts.rst")
    settings.AFFILIATE_PAYOUT = "shop.by_product.payout"
    lines = [("tea", 50), ("cups", 25), ("books", 25)]
    order = Order.objects.create(total=100)
    order.lines = SimpleNamespace(
        all=lambda: [SimpleNamespace(category=name, total=Decimal(total)) for name, total in lines]
    )
    assert paid(steep_notes, order) == [6]
    assert paid(steep_notes, order, "Sale") == [6, 10]
    lines.clear()
    order.pk += 1
    assert paid(steep_notes, order) == [6, 10, None]


def test_a_payout_by_tier_grows_with_the_volume_of_the_month(
    steep_notes: Partner,
    shop: Callable[[Path], ModuleType],
    settings: Any,
    django_assert_num_queries: Any,
) -> None:
    rule = SubscriptionFactory(partner=steep_notes, trigger="Order placed", counting="every")
    package = shop(DOCS / "guides/payouts.rst")
    settings.AFFILIATE_PAYOUT = "shop.by_volume.payout"
    sold: dict[str, Any] = {"amount": 9_000, "currency": "EUR"}
    ConversionFactory(visitor=VisitorFactory(), **sold)  # of another partner
    before = timezone.now() - timedelta(days=32)
    for left_out in ({"is_test": True}, {"status": "rejected"}, {"created_on": before}):
        ConversionFactory(visitor=VisitorFactory(partner=steep_notes), **sold, **left_out)
    for total, expected in ((1_000, 80), (9_000, 900), (100, 12)):
        assert paid(steep_notes, Order.objects.create(total=total))[-1] == expected
    with django_assert_num_queries(1):
        package.by_volume.payout(rule, None, Decimal(5), "EUR")
    assert package.by_volume.payout(rule, None, None, "") is None


def test_only_the_first_order_of_a_customer_is_paid(
    steep_notes: Partner, shop: Callable[[Path], ModuleType], settings: Any
) -> None:
    tens: dict[str, Any] = {"payout_type": "percent", "payout_value": 10}
    SubscriptionFactory(partner=steep_notes, trigger="Order placed", counting="every", **tens)
    shop(DOCS / "guides/payouts.rst")
    settings.AFFILIATE_PAYOUT = "shop.first_order.payout"
    user = UserFactory()
    for customer in (user, UserFactory(), user, None, None):
        payouts = paid(steep_notes, Order.objects.create(total=100, user=customer))
    assert payouts == [10, 10, 0, 10, 10]


def test_staff_reject_at_their_desk(
    shop: Callable[[Path], ModuleType], db: None, rf: RequestFactory
) -> None:
    request = rf.get("/")
    request.user = UserFactory()
    conversion = ConversionFactory()
    assert shop(DOCS / "guides/approving.rst").desk.reject(conversion, request)
    stored = Conversion.objects.get()
    assert (stored.status, stored.decided_by) == ("rejected", request.user)


def test_the_async_receiver_credits(
    steep_notes: Partner,
    async_client: AsyncClient,
    shop: Callable[[Path], ModuleType],
    wire: Callable[[list[Any]], None],
) -> None:
    SubscriptionFactory(partner=steep_notes, trigger="Order shipped")
    shop(DOCS / "guides/triggers.rst")
    wire([("Order shipped", order_shipped, "shop.async_triggers.order_shipped", None)])
    async_to_sync(async_client.get)("/", {"affiliate_id": steep_notes.uid})
    order = async_to_sync(async_client.get)("/ship/").content.decode()
    assert Conversion.objects.get().reference == f"testapp.order:{order}"


def test_the_receiver_of_a_suspension_logs_it(
    subscription: Subscription,
    shop: Callable[[Path], ModuleType],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop(DOCS / "guides/monitoring.rst")
    try:
        signals.subscription_suspended.send(Subscription, subscription=subscription)
    finally:
        assert signals.subscription_suspended.disconnect(dispatch_uid="shop.alarms.tell_staff")
    assert caplog.messages == [
        f"{subscription.partner} does not answer: {subscription.callback_url}"
    ]


def test_the_middleware_that_limits_clicks_stops_a_flood_and_nobody_else(
    shop: Callable[[Path], ModuleType], client: Client
) -> None:
    cache.clear()
    shop(DOCS / "guides/rate_limits.rst")
    limit: Any = import_module("shop.limits").limit_clicks
    limited = limit(lambda request: HttpResponse())
    click = RequestFactory().get("/", {"affiliate_id": "moox6esi"})
    assert [limited(click).status_code for _ in range(32)] == [200] * 30 + [429] * 2
    assert limited(RequestFactory().get("/")).status_code == 200
    other = RequestFactory(REMOTE_ADDR="192.0.2.7").get("/", {"affiliate_id": "moox6esi"})
    assert limited(other).status_code == 200
    cache.clear()


def test_the_search_of_guests_finds_their_orders(
    shop: Callable[[Path], ModuleType], monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    search: Any = shop(DOCS / "reference/settings.rst").search
    monkeypatch.setattr(search, "Order", Newsletter)  # which has an address
    orders = [Newsletter.objects.create(email="anna@shop.example") for _ in range(2)]
    assert list(search.references("Anna@shop.example")) == [orders[1].pk, orders[0].pk]
    assert list(search.references("10200")) == []


@isolate_apps("tests.testapp")
def test_the_field_that_keeps_the_visitor_is_the_one_that_the_tests_use() -> None:
    [block] = [
        b
        for b in blocks(DOCS / "guides/outside_requests.rst", "python")
        if b.file == "shop/models.py"
    ]
    namespace: dict[str, Any] = {"__name__": "tests.testapp.models"}
    exec(block.code, namespace)
    shown = namespace["Order"]._meta.get_field("affiliate_visitor")
    assert shown.deconstruct() == Order._meta.get_field("affiliate_visitor").deconstruct()


@pytest.mark.usefixtures("db", "logging_restored")
def test_the_logging_lines_say_why_nothing_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    every = [run_settings(block) for block in settings_blocks(DOCS / "guides/monitoring.rst")]
    [config] = [shown["LOGGING"] for shown in every if "LOGGING" in shown]
    logging.config.dictConfig(config)
    visitor = VisitorFactory()
    complete_trigger(None, "Order placed", visitor=visitor, reference="A-17")
    assert capsys.readouterr().err == (
        "“Order placed” had no effect: the partner has no active subscription to this trigger "
        f"(visitor {visitor}, reference “A-17”). {Reason.NOT_SUBSCRIBED.cure}\n"
    )


def test_the_partner_receives_what_is_shown(
    steep_notes: Partner, httpserver: HTTPServer, settings: Any
) -> None:
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    text = (DOCS / "guides/callback_urls.rst").read_text(encoding="utf-8")
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
    recording.record(
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
    settings.AFFILIATE_CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    httpserver.expect_request("/due").respond_with_data("")
    callback = CallbackFactory(url=httpserver.url_for("/due"))
    [block] = [b for b in blocks(DOCS / "guides/resending.rst", "pycon") if "deliver(" in b.code]
    parsed = doctest.DocTestParser().get_doctest(block.code, {}, "resending.rst", None, 0)
    run_doctests([parsed])
    callback.refresh_from_db()
    assert callback.status == Callback.Status.DELIVERED


@every_page
def test_every_dotted_path_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    dotted = set(re.findall(r"``\"?((?:affiliations|django)(?:\.\w+)+)\"?(?:\(.*?\))?``", text))
    assert {name for name in dotted if not leads_somewhere(name)} == {
        name for name in dotted if name.startswith(RETIRED)
    }


def is_public(dotted: str) -> bool:
    parent, _, name = dotted.rpartition(".")
    if parent in SUBPACKAGES:
        return name in import_module(parent).__all__
    return dotted in {*PUBLIC_MODULES, *SUBPACKAGES} or parent in PUBLIC_MODULES


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.stem not in ("architecture", "decisions")],
    ids=lambda page: page.name,
)
def test_pages_for_hosts_name_nothing_that_is_private(page: Path) -> None:
    """Modules inside a subpackage may be renamed; what it exports may not."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"``\"?(affiliations(?:\.\w+)+)", text))
    for module, names in re.findall(r"from (affiliations[\w.]*) import ([\w, ]+)", text):
        named |= {f"{module}.{name}" for name in names.split(", ")}
    assert {name for name in named if not is_public(name) and not name.startswith(RETIRED)} == set()


@every_page
def test_every_command_and_option_of_a_page_exists(page: Path) -> None:
    apps = get_commands()
    text = page.read_text(encoding="utf-8")
    for name, arguments in re.findall(r"manage\.py (\w+)([^`\n\"]*)", text):
        # Of packages that need not be installed.
        if name in ("all_tenants_command", "db_worker", "tenant_command"):
            continue
        if name == "createsuperuser":  # Its options are fields of the user model.
            continue
        parser = load_command_class(apps[name], name).create_parser("manage.py", name)
        options = set(re.findall(r"--[\w-]+", arguments))
        assert options <= parser._option_string_actions.keys(), name


@pytest.mark.parametrize("page", [*PAGES, SECURITY], ids=lambda page: page.name)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    named = set(re.findall(r"\bAFFILIATE_\w+", page.read_text(encoding="utf-8")))
    assert named - properties_by_setting().keys() == set()


def test_the_changelog_links_to_pages_that_exist() -> None:
    pages = re.findall(r"<(docs/\S+)>`_", CHANGELOG.read_text(encoding="utf-8"))
    assert "docs/guides/upgrading.rst" in pages
    assert [page for page in pages if not (ROOT / page).exists()] == []


def test_the_security_policy_names_files_and_commands_that_exist() -> None:
    names = re.findall(r"`([\w./-]+)`", SECURITY.read_text(encoding="utf-8"))
    files = {name for name in names if "/" in name or name.endswith((".md", ".rst", ".toml"))}
    assert "docs/explanation/privacy.rst" in files
    assert {name for name in files if not (ROOT / name).exists()} == set()
    commands = {name for name in names if re.fullmatch(r"[a-z]+_[a-z_]+", name)}
    directories = {path.name for path in ROOT.iterdir()}
    assert "purge_affiliations" in commands
    assert commands - directories - get_commands().keys() == set()


@pytest.mark.parametrize("name", ["README.rst", "CONTRIBUTING.rst", "docs/index.rst"])
def test_the_security_policy_is_found(name: str) -> None:
    assert "``SECURITY.md``" in (ROOT / name).read_text(encoding="utf-8")


def test_the_limits_in_the_security_policy_are_those_of_the_code() -> None:
    text = SECURITY.read_text(encoding="utf-8")
    assert f"{transport.MAX_BODY // 1024} KiB" in text
    assert f"at most {transport.MAX_REDIRECTS} redirects" in text
    assert f"{Visitor._meta.get_field('click_id').max_length} characters" in text
    assert f"{LIMIT:,} partners" in text


def test_the_numbers_that_the_pages_give_are_those_of_the_code() -> None:
    hours = timedelta(hours=1)
    assert (suspension.SUSPEND_AFTER_FAILURES, suspension.SUSPEND_AFTER / hours) == (10, 72)
    assert suspension.LONGEST_RETRY_AFTER / hours == 24
    assert (slots.CONCURRENCY, slots.PER_PARTNER) == (16, 4)
    assert (slots.EXTRA, slots.SLOW) == (16, 3)
    assert suspension.LONGEST_PAUSE / hours == 1
    assert (maintenance.DAYS, maintenance.BATCH) == (90, 1000)
    assert (privacy.BATCH, rollups.LABELS) == (1000, 20)
    assert (transport.MAX_BODY, transport.MAX_REDIRECTS) == (4096, 3)
    assert (our_settings.callback_timeout, our_settings.callback_deadline) == ((3.05, 10), 15)
