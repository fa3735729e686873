from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib import admin
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.core.checks import CheckMessage, Error, run_checks
from django.db import connections, models
from django.test import override_settings
from django.test.utils import isolate_apps
from django.urls import path

from affiliations.checks import (
    check_databases,
    check_fields,
    check_middleware,
    check_names,
    check_production,
    check_settings,
    check_staff_namespaces,
)
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware
from affiliations.models import Callback, Conversion, Partner, Subscription, Visitor
from affiliations.models.clicks import Report
from tests.test_conf import properties_by_setting

OURS = "affiliations.middleware.AffiliateVisitorsRegistrationMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
TLS = "tls.TLSRequestMiddleware"


class OurSubclass(AffiliateVisitorsRegistrationMiddleware):
    """What a host made of our middleware."""


class SessionSubclass(SessionMiddleware):
    """What a host made of Django's."""


class AuthenticationSubclass(AuthenticationMiddleware):
    """What a host made of Django's."""


def a_factory(get_response: Any) -> Any:
    """Middleware may be a function."""
    return get_response


def agrees(request: Any) -> bool:
    """Say what a host might say of consent."""
    return True


async def agrees_later(request: Any) -> bool:
    return True


OUR_SUBCLASS = "tests.test_checks.OurSubclass"
SESSION_SUBCLASS = "tests.test_checks.SessionSubclass"
AUTHENTICATION_SUBCLASS = "tests.test_checks.AuthenticationSubclass"


def found(*middleware: str) -> list[str]:
    with override_settings(MIDDLEWARE=list(middleware)):
        return [message.id.removeprefix("affiliations.") for message in check_middleware()]


def only(messages: list[CheckMessage]) -> CheckMessage:
    [message] = messages
    return message


def test_the_settings_of_the_tests_pass() -> None:
    assert check_middleware() == []
    assert check_settings() == []


def test_the_defaults_pass() -> None:
    with override_settings():
        from django.conf import settings

        for name in dir(settings):
            if name.startswith("AFFILIATE_"):
                delattr(settings, name)
        assert check_settings() == []


def test_the_checks_are_bound() -> None:
    with override_settings(MIDDLEWARE=[], AFFILIATE_IGNORE_BOTS="no"):
        found = run_checks(tags=["affiliations"])
    ids = {message.id for message in found if message.is_serious(checks.ERROR)}
    assert ids == {"affiliations.E002", "affiliations.E006"}


class TestMiddleware:
    @pytest.mark.parametrize(
        "middleware",
        [
            [SESSION, AUTHENTICATION, OURS],
            [SESSION_SUBCLASS, AUTHENTICATION_SUBCLASS, OUR_SUBCLASS],
            [SESSION, "tests.test_checks.a_factory", AUTHENTICATION, OURS],
            # What Django itself says at the first request.
            [SESSION, AUTHENTICATION, OURS, "nowhere.Middleware", "nonsense"],
        ],
    )
    def test_in_order_passes(self, middleware: list[str]) -> None:
        assert found(*middleware) == []

    @pytest.mark.parametrize("middleware", [(SESSION, AUTHENTICATION), ()])
    def test_of_ours_may_not_be_missing(self, middleware: tuple[str, ...]) -> None:
        assert found(*middleware) == ["E002"]

    def test_of_ours_may_not_be_there_twice(self) -> None:
        assert found(SESSION, AUTHENTICATION, OURS, OURS) == ["E003"]
        assert found(SESSION, AUTHENTICATION, OURS, OUR_SUBCLASS) == ["E003"]

    @pytest.mark.parametrize("session", [SESSION, SESSION_SUBCLASS])
    def test_of_sessions_stands_above(self, session: str) -> None:
        assert found(OURS, session, AUTHENTICATION) == ["E004", "E005"]
        assert found(AUTHENTICATION, OURS, session) == ["E004"]

    @pytest.mark.parametrize("authentication", [AUTHENTICATION, AUTHENTICATION_SUBCLASS])
    def test_of_authentication_stands_above(self, authentication: str) -> None:
        assert found(SESSION, OURS, authentication) == ["E005"]

    def test_of_sessions_and_authentication_may_be_missing_but_it_costs_something(self) -> None:
        assert found(AUTHENTICATION, OURS) == ["W001"]
        assert found(SESSION, OURS) == ["W002"]
        assert found(OURS) == ["W001", "W002"]

    @pytest.mark.parametrize("ours", [[OURS], []])
    def test_of_django_tls_is_not_wanted_any_more(self, ours: list[str]) -> None:
        """(D24)"""
        listed = [SESSION, AUTHENTICATION, TLS, *ours]
        assert found(*listed) == ["E001", *([] if ours else ["E002"])]

    def test_of_django_tls_really_cannot_be_run(self) -> None:
        """(D24) Else there were no need to refuse it."""
        import tls

        with pytest.raises(TypeError):
            tls.TLSRequestMiddleware(lambda request: None)

    @override_settings(MIDDLEWARE=[SESSION, AUTHENTICATION, TLS, OURS])
    def test_messages_say_what_to_write(self) -> None:
        """(D24)"""
        assert only(check_middleware()) == Error(
            "MIDDLEWARE lists 'tls.TLSRequestMiddleware', which Django cannot run.",
            hint=f"Remove that line: '{OURS}' binds the request for django-tls itself.",
            id="affiliations.E001",
        )

    @override_settings(MIDDLEWARE=[OURS, SESSION])
    def test_messages_say_what_is_lost_and_where_to_put_the_line(self) -> None:
        assert check_middleware() == [
            Error(
                f"MIDDLEWARE lists '{SESSION}' below the middleware of affiliations: visitors are "
                "registered, but never recognised again.",
                hint=f"Move the line '{OURS}' below it.",
                id="affiliations.E004",
            ),
            checks.Warning(
                f"MIDDLEWARE does not list '{AUTHENTICATION}': the user of a visitor is not known.",
                hint=f"Add the line '{AUTHENTICATION}' above '{OURS}'.",
                id="affiliations.W002",
            ),
        ]

    @override_settings(MIDDLEWARE=[SESSION, AUTHENTICATION])
    def test_messages_give_the_line_that_is_missing(self) -> None:
        message = only(check_middleware())
        assert "no visitor is registered and no trigger finds one" in message.msg
        assert f"'{OURS}', below those of sessions and authentication" in str(message.hint)

    @override_settings(MIDDLEWARE=[SESSION, AUTHENTICATION, OURS, OUR_SUBCLASS])
    def test_messages_name_what_is_there_twice(self) -> None:
        message = only(check_middleware())
        assert message.msg.endswith("more than once.")
        assert OURS in str(message.hint)


RIGHT = {
    "AFFILIATE_QUERY_STRING_KEY": ["via", ("via", "affiliate_id"), ["via"], "nøgle"],
    "AFFILIATE_SESSION_KEY": ["visitor"],
    "AFFILIATE_CLICK_ID_KEY": ["cid"],
    "AFFILIATE_SUB_ID_KEYS": [(), ("s1",), ["s1", "s2", "s3", "s4", "s5"]],
    "AFFILIATE_ATTRIBUTION_WINDOW": [None, timedelta(seconds=1), timedelta(days=36_500)],
    "AFFILIATE_ATTRIBUTION_MODEL": ["last_click", "first_click"],
    "AFFILIATE_CLICK_DEDUPE_WINDOW": [None, timedelta(seconds=1)],
    "AFFILIATE_COOKIE_NAME": [None, "referral", "__Host-referral", "a!#$%&'*+.^_`|~9"],
    "AFFILIATE_CONSENT": [None, "tests.test_checks.agrees"],
    "AFFILIATE_SEARCH": [None, "tests.test_checks.agrees"],
    "AFFILIATE_SCREEN": ["affiliations.conversions.own_account"],
    "AFFILIATE_PAYOUT": ["affiliations.conversions.own_account", None],
    "AFFILIATE_ATTRIBUTE_BY_USER": [True, False],
    "AFFILIATE_STAFF_NAMESPACES": [(), ("admin",), ["admin", "backoffice:index"]],
    "AFFILIATE_ENTRY_POINT_REDACTED": [(), ("token",), ["email", "x-y"]],
    "AFFILIATE_IGNORE_BOTS": [True, False],
    "AFFILIATE_COUNT_FETCHES": [True, False],
    "AFFILIATE_COUNT_FRAMES": [True, False],
    "AFFILIATE_CALLBACK_DISPATCHER": [
        "affiliations.dispatchers.thread",
        "tests.dispatchers.ignored",
    ],
    "AFFILIATE_CALLBACK_TIMEOUT": [(1, 2), [0.5, 0.5]],
    "AFFILIATE_CALLBACK_DEADLINE": [0.1, 20],
    "AFFILIATE_CALLBACK_LEASE": [61, 900.5],
    "AFFILIATE_CALLBACK_RETRY_SCHEDULE": [(0,), [0, 5, 0.5]],
    "AFFILIATE_CALLBACK_ALLOWED_NETWORKS": [(), ["127.0.0.0/8", "::1"], ("10.0.0.1",)],
    "AFFILIATE_CALLBACK_REQUIRE_HTTPS": [True, False],
    "AFFILIATE_SEND_CALLBACKS": [True, False],
    "AFFILIATE_NOTICE_RECIPIENTS": [(), ["a@shop.example"], ("a@shop.example", "b@shop.example")],
    "AFFILIATE_SITE_URL": ["", "https://shop.example", "http://localhost:8000", "https://[::1]:80"],
}
WRONG = {
    "AFFILIATE_QUERY_STRING_KEY": ["", (), ("via", ""), ("via", None), None, 5, {"via"}],
    "AFFILIATE_SESSION_KEY": ["", None, ("visitor",)],
    "AFFILIATE_CLICK_ID_KEY": ["", None, ("click_id",)],
    "AFFILIATE_SUB_ID_KEYS": ["sub1", None, ("",), ("1", "2", "3", "4", "5", "6"), {"sub1": "a"}],
    "AFFILIATE_ATTRIBUTION_WINDOW": [30, 0, "30", timedelta(0), timedelta(-1), timedelta.max],
    "AFFILIATE_ATTRIBUTION_MODEL": ["", None, "last", "LAST_CLICK", ["last_click"]],
    "AFFILIATE_CLICK_DEDUPE_WINDOW": [3600, 0, "1h", timedelta(0), timedelta.max],
    "AFFILIATE_COOKIE_NAME": ["", "a b", "a;b", "a=b", "é", 5, "a\n"],
    "AFFILIATE_CONSENT": ["", True, print],
    "AFFILIATE_SEARCH": ["", True, print],
    "AFFILIATE_SCREEN": ["", None, print],
    "AFFILIATE_PAYOUT": ["", 10, print],
    "AFFILIATE_ATTRIBUTE_BY_USER": [None, 1, "yes"],
    "AFFILIATE_STAFF_NAMESPACES": ["admin", None, ("",), (1,), {"admin": 1}],
    "AFFILIATE_ENTRY_POINT_REDACTED": ["token", None, ("",), (1,), {"token"}, 5],
    "AFFILIATE_IGNORE_BOTS": [None, 0, "no"],
    "AFFILIATE_COUNT_FETCHES": [None, 1, "yes"],
    "AFFILIATE_COUNT_FRAMES": [None, 1, "yes"],
    "AFFILIATE_CALLBACK_DISPATCHER": ["", None, print],
    "AFFILIATE_CALLBACK_TIMEOUT": [5, (5,), (1, 2, 3), (0, 1), (1, None), "35", (1, -1), None],
    "AFFILIATE_CALLBACK_DEADLINE": [0, -1, None, "15", True, float("inf"), float("nan")],
    "AFFILIATE_CALLBACK_LEASE": [0, -1, None, "90", timedelta(seconds=90), 10**6],
    "AFFILIATE_CALLBACK_RETRY_SCHEDULE": [(), None, 5, (0, -5), (0, "5"), (timedelta(0),), (5,)],
    "AFFILIATE_CALLBACK_ALLOWED_NETWORKS": [
        None,
        True,
        "127.0.0.1",
        ["127.0.0.1/8"],
        ["localhost"],
        [127],
    ],
    "AFFILIATE_CALLBACK_REQUIRE_HTTPS": [None, 1],
    "AFFILIATE_SEND_CALLBACKS": [None, 0],
    "AFFILIATE_NOTICE_RECIPIENTS": [
        None,
        "a@shop.example",
        [""],
        ["shop"],
        [("Anna", "a@shop.example")],
        ["a@shop.example\nBcc: b@shop.example"],
    ],
    "AFFILIATE_SITE_URL": [
        None,
        5,
        "shop.example",
        "https://shop.example/",
        "https://a@shop.example",
        "ftp://shop.example",
        "https://shop.example\n",
    ],
}


def each(values: dict[str, list[Any]]) -> Any:
    pairs = [(name, value) for name, several in values.items() for value in several]
    return pytest.mark.parametrize(("name", "value"), pairs, ids=lambda value: str(value)[:50])


class TestSettings:
    @each(RIGHT)
    def test_of_the_right_type_and_range_pass(self, name: str, value: Any) -> None:
        with override_settings(**{name: value}):
            assert check_settings() == []

    @each(WRONG)
    def test_of_a_wrong_type_or_out_of_range_are_found(self, name: str, value: Any) -> None:
        with override_settings(**{name: value}):
            message = only(check_settings())
        assert message.id == "affiliations.E006"
        assert message.level == Error("").level
        assert message.msg.startswith(f"{name} is {value!r}, but must be ")

    def test_each_is_looked_at(self) -> None:
        """A new setting needs a check, and tests of it."""
        # A mistake in the triggers stops the start-up by itself.
        checked = properties_by_setting().keys() - {"AFFILIATE_TRIGGERS"}
        assert RIGHT.keys() == WRONG.keys() == checked

    @override_settings(AFFILIATE_IGNORE_BOTS="no", AFFILIATE_SESSION_KEY="")
    def test_are_all_told_at_once(self) -> None:
        assert [message.msg.partition(" ")[0] for message in check_settings()] == [
            "AFFILIATE_SESSION_KEY",
            "AFFILIATE_IGNORE_BOTS",
        ]

    @each(WRONG)
    def test_hints_give_a_line_that_passes(self, name: str, value: Any) -> None:
        with override_settings(**{name: value}):
            hint = str(only(check_settings()).hint)
        start, _, line = hint.partition(f"{name} = ")
        assert start == "Write, for example: "
        with override_settings(**{name: eval(line, {"timedelta": timedelta})}):
            assert check_settings() == []

    @override_settings(AFFILIATE_ATTRIBUTION_WINDOW=30)
    def test_messages_read_well(self) -> None:
        assert check_settings() == [
            Error(
                "AFFILIATE_ATTRIBUTION_WINDOW is 30, but must be a timedelta above zero and of at "
                "most a hundred years, or None.",
                hint="Write, for example: AFFILIATE_ATTRIBUTION_WINDOW = timedelta(days=30)",
                id="affiliations.E006",
            )
        ]


class TestAFunction:
    @pytest.mark.parametrize(
        "name",
        [
            "AFFILIATE_CALLBACK_DISPATCHER",
            "AFFILIATE_CONSENT",
            "AFFILIATE_SCREEN",
            "AFFILIATE_PAYOUT",
            "AFFILIATE_SEARCH",
        ],
    )
    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("nowhere.agrees", "cannot be imported: No module named 'nowhere'"),
            ("tests.test_checks.nobody", "cannot be imported: Module"),
            ("tests.test_checks.OURS", "cannot be called"),
            ("tests.test_checks.agrees_later", "is async, but is called without await"),
        ],
    )
    def test_must_be_one_that_can_be_called(self, name: str, path: str, problem: str) -> None:
        with override_settings(**{name: path}):
            message = only(check_settings())
        assert message.id == "affiliations.E007"
        assert message.msg.startswith(f"{name} is {path!r}, which {problem}")
        assert f'{name} = "' in str(message.hint)


class TestTheDispatcher:
    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("nowhere.send", "cannot be imported: No module named 'nowhere'"),
            ("affiliations.dispatchers.threed", "cannot be imported: Module"),
            ("thread", "cannot be imported: thread doesn't look like a module path"),
            ("tests.test_checks.OURS", "cannot be called"),
        ],
    )
    def test_must_be_one_that_can_be_called(self, path: str, problem: str) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=path):
            message = only(check_settings())
        assert message.id == "affiliations.E007"
        assert message.msg.startswith(f"AFFILIATE_CALLBACK_DISPATCHER is {path!r}, which {problem}")
        assert '= "affiliations.dispatchers.thread"' in str(message.hint)


class TestTheParametersOfALink:
    @pytest.mark.parametrize(
        ("names", "twice"),
        [
            ({"AFFILIATE_QUERY_STRING_KEY": "click_id"}, "click_id"),
            ({"AFFILIATE_QUERY_STRING_KEY": ("via", "sub3")}, "sub3"),
            ({"AFFILIATE_QUERY_STRING_KEY": ("via", "via")}, "via"),
            ({"AFFILIATE_CLICK_ID_KEY": "affiliate_id"}, "affiliate_id"),
            ({"AFFILIATE_SUB_ID_KEYS": ("a", "a")}, "a"),
        ],
    )
    def test_have_different_names(self, names: dict[str, Any], twice: str) -> None:
        with override_settings(**names):
            message = only(check_settings())
        assert message.id == "affiliations.E008"
        assert f"name the parameter {twice!r} more than once" in message.msg


class TestTheLease:
    @pytest.mark.parametrize(("lease", "deadline"), [(15, 15), (60, 15), (90, 22.5)])
    def test_is_longer_than_the_deadline(self, lease: float, deadline: float) -> None:
        with override_settings(
            AFFILIATE_CALLBACK_LEASE=lease, AFFILIATE_CALLBACK_DEADLINE=deadline
        ):
            message = only(check_settings())
        assert message.id == "affiliations.E009"
        assert f"{lease} seconds and AFFILIATE_CALLBACK_DEADLINE {deadline}: " in message.msg

    def test_may_be_a_little_longer(self) -> None:
        with override_settings(AFFILIATE_CALLBACK_LEASE=61, AFFILIATE_CALLBACK_DEADLINE=15):
            assert check_settings() == []


class TestTheCookie:
    @pytest.mark.parametrize(
        ("name", "setting"),
        [
            ("sessionid", "SESSION_COOKIE_NAME"),
            ("csrftoken", "CSRF_COOKIE_NAME"),
            ("django_language", "LANGUAGE_COOKIE_NAME"),
        ],
    )
    def test_is_no_other_cookie_of_the_site(self, name: str, setting: str) -> None:
        with override_settings(AFFILIATE_COOKIE_NAME=name):
            message = only(check_settings())
        assert message.id == "affiliations.E013"
        assert message.msg == f"AFFILIATE_COOKIE_NAME is {name!r}, and so is {setting}."


class TestBeforeADeployment:
    @pytest.mark.parametrize(
        ("settings", "ends"),
        [
            ({}, "after 14 days"),
            ({"SESSION_COOKIE_AGE": 86_400}, "after 1 day"),
            ({"SESSION_COOKIE_AGE": 60 * 86_400}, None),
            ({"SESSION_COOKIE_AGE": 30 * 86_400}, None),
            ({"SESSION_EXPIRE_AT_BROWSER_CLOSE": True}, "with the browser"),
            (
                {"SESSION_EXPIRE_AT_BROWSER_CLOSE": True, "SESSION_COOKIE_AGE": 60 * 86_400},
                "with the browser",
            ),
            ({"AFFILIATE_COOKIE_NAME": "referral"}, None),
            ({"AFFILIATE_ATTRIBUTION_WINDOW": None}, None),
            ({"AFFILIATE_ATTRIBUTION_WINDOW": timedelta(days=14)}, None),
            ({"AFFILIATE_ATTRIBUTION_WINDOW": 30}, None),
        ],
    )
    def test_a_window_that_outlives_the_session_is_told(
        self, settings: dict[str, Any], ends: str | None
    ) -> None:
        with override_settings(**settings):
            messages = check_production()
        if ends is None:
            assert messages == []
        else:
            assert only(messages) == checks.Warning(
                "AFFILIATE_ATTRIBUTION_WINDOW is 30 days, but the session that remembers the "
                f"visitor ends {ends}.",
                hint='Write, for example: AFFILIATE_COOKIE_NAME = "referral"',
                id="affiliations.W006",
            )

    @pytest.mark.parametrize("samesite", ["Lax", "None", False])
    def test_a_session_that_comes_along_with_a_partners_link_passes(self, samesite: object) -> None:
        with override_settings(
            SESSION_COOKIE_SAMESITE=samesite, AFFILIATE_ATTRIBUTION_WINDOW=timedelta(days=14)
        ):
            assert check_production() == []

    @override_settings(
        SESSION_COOKIE_SAMESITE="Strict", AFFILIATE_ATTRIBUTION_WINDOW=timedelta(days=14)
    )
    def test_a_session_that_a_partners_link_ends_is_told(self) -> None:
        message = only(check_production())
        assert message.id == "affiliations.W007"
        assert "and is logged out" in message.msg
        assert message.hint == 'Write: SESSION_COOKIE_SAMESITE = "Lax"'

    def test_it_is_told_before_a_deployment_only(self) -> None:
        def told(**deployment: bool) -> bool:
            messages = run_checks(
                tags=["affiliations"], include_deployment_checks=deployment.get("deploy", False)
            )
            return "affiliations.W006" in {message.id for message in messages}

        assert told(deploy=True)
        assert not told()


class TestDatabases:
    @pytest.fixture
    def database(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """Return the settings of a database that has nothing to complain of."""
        found = {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}, "TIME_ZONE": None}
        monkeypatch.setattr(connections["default"], "settings_dict", found)
        return found

    def test_are_fine(self, database: dict[str, Any]) -> None:
        assert check_databases() == []

    @pytest.mark.parametrize(
        "engine", ["django.db.backends.sqlite3", "django.contrib.gis.db.backends.spatialite"]
    )
    @pytest.mark.parametrize("options", [{}, {"transaction_mode": "deferred"}, {"timeout": 5}])
    def test_warn_of_sqlite_with_the_line_to_write(
        self, database: dict[str, Any], options: dict[str, Any], engine: str
    ) -> None:
        database |= {"ENGINE": engine, "OPTIONS": options}
        (message,) = check_databases()
        assert message.id == "affiliations.W008"
        assert '"OPTIONS": {"transaction_mode": "IMMEDIATE"}' in str(message.hint)

    @pytest.mark.parametrize("mode", ["IMMEDIATE", "immediate", "EXCLUSIVE"])
    def test_accept_sqlite_that_begins_as_a_writer(
        self, database: dict[str, Any], mode: str
    ) -> None:
        database |= {"ENGINE": "django.db.backends.sqlite3"}
        database["OPTIONS"] = {"transaction_mode": mode}
        assert check_databases() == []

    @pytest.mark.parametrize(("zone", "ids"), [("Europe/Copenhagen", ["W009"]), ("UTC", [])])
    def test_warn_of_local_times_where_clocks_change(
        self, database: dict[str, Any], zone: str, ids: list[str]
    ) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE=zone):
            found = check_databases()
        assert [message.id.removeprefix("affiliations.") for message in found] == ids

    def test_accept_the_time_zone_of_the_machine(self, database: dict[str, Any]) -> None:
        with override_settings(USE_TZ=False, TIME_ZONE=None):
            check_databases()

    @pytest.mark.parametrize(("dispatcher", "count"), [("thread", 1), ("worker", 0)])
    def test_warn_of_tenants_whose_tables_a_thread_does_not_ask(
        self, database: dict[str, Any], dispatcher: str, count: int
    ) -> None:
        database["ENGINE"] = "django_tenants.postgresql_backend"
        path = f"affiliations.dispatchers.{dispatcher}"
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=path):
            found = check_databases()
        assert [message.id for message in found] == ["affiliations.W010"] * count


class TestFieldsOfTheHost:
    @pytest.fixture(autouse=True)
    def isolated(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with isolate_apps("tests.testapp") as isolated:
            monkeypatch.setattr("affiliations.checks.apps", isolated)
            yield

    @pytest.mark.parametrize("target", [Visitor, Conversion, Callback, Report])
    @pytest.mark.parametrize(
        "kind", [models.ForeignKey, models.OneToOneField, models.ManyToManyField]
    )
    def test_that_offer_rows_of_the_app_are_told_with_the_line(
        self, kind: Any, target: Any
    ) -> None:
        actions = [] if kind is models.ManyToManyField else [models.CASCADE]

        class Sale(models.Model):  # noqa: DJ008
            row = kind(target, *actions, related_name="+")

            class Meta:
                app_label = "testapp"

        [message] = check_fields()
        assert (message.id, message.obj) == ("affiliations.W011", Sale._meta.get_field("row"))
        assert message.msg.startswith("testapp.Sale.row is editable: ")
        line = f'row = models.{kind.__name__}("{target._meta.label}", …, editable=False)'
        assert line in str(message.hint)

    def test_are_told_once_where_they_are_inherited(self) -> None:
        class Abstract(models.Model):
            visitor = models.ForeignKey(Visitor, models.CASCADE, related_name="+")

            class Meta:
                abstract = True
                app_label = "testapp"

        class Sale(Abstract):  # noqa: DJ008
            class Meta(Abstract.Meta):
                abstract = False

        class Sales(Sale):  # noqa: DJ008
            class Meta:
                app_label = "testapp"
                proxy = True

        class GroupSale(Sale):  # noqa: DJ008
            class Meta:
                app_label = "testapp"

        assert [message.obj for message in check_fields()] == [Sale._meta.get_field("visitor")]

    def test_pass_where_no_form_offers_too_many_rows(self) -> None:
        class Sale(models.Model):  # noqa: DJ008
            visitor = models.ForeignKey(Visitor, models.CASCADE, editable=False, related_name="+")
            visitors = models.ManyToManyField(Visitor, editable=False, related_name="+")
            partner = models.ForeignKey(Partner, models.CASCADE, related_name="+")
            deal = models.ForeignKey(Subscription, models.CASCADE, related_name="+")
            missing = models.ForeignKey("missing.Model", models.CASCADE)
            note = models.TextField()

            class Meta:
                app_label = "testapp"

        class OwnVisitor(Visitor):
            class Meta:
                app_label = "testapp"

        assert check_fields() == []

    def test_are_fine_in_the_test_project(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("affiliations.checks.apps", apps)
        assert check_fields() == []


def warned(find: Any) -> list[tuple[str, str, str]]:
    return [(message.id, message.msg.partition(" ")[0], message.hint or "") for message in find()]


@pytest.fixture
def settings_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module that seems to be the one of Django's settings."""
    module = ModuleType("shop_settings")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(django_settings, "SETTINGS_MODULE", module.__name__)
    return module


class TestNames:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("AFFILIATE_CALLBACK_TIMEUOT", "AFFILIATE_CALLBACK_TIMEOUT"),
            ("AFFILIATE_QUERY_STRING_KEYS", "AFFILIATE_QUERY_STRING_KEY"),
            ("AFFILIATE_TRIGGER", "AFFILIATE_TRIGGERS"),
            ("AFFILIATE_COOKIE", "AFFILIATE_COOKIE_NAME"),
            ("AFFILIATES_COOKIE_NAME", "AFFILIATE_COOKIE_NAME"),
            ("AFFILIATIONS_CONSENT", "AFFILIATE_CONSENT"),
            ("AFFILATE_CONSENT", "AFFILIATE_CONSENT"),
            ("AFFILIATECONSENT", "AFFILIATE_CONSENT"),
            ("AFFILIATECOOKIE_NAME", "AFFILIATE_COOKIE_NAME"),
            ("AFFILIATEQUERYSTRINGKEY", "AFFILIATE_QUERY_STRING_KEY"),
        ],
    )
    def test_that_are_misspelt_are_told_with_what_was_meant(self, name: str, meant: str) -> None:
        with override_settings(**{name: None}):
            [message] = check_names()
        assert (message.id, message.level) == ("affiliations.W013", checks.WARNING)
        assert message.msg == f"{name} is not a setting of affiliations, so it has no effect."
        assert message.hint == f"Did you mean {meant}?"

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("affiliate_consent", "AFFILIATE_CONSENT"),
            ("affiliate_COOKIE_NAME", "AFFILIATE_COOKIE_NAME"),
            ("Affiliate_Ignore_Bot", "AFFILIATE_IGNORE_BOTS"),
        ],
    )
    def test_that_are_not_in_capitals_are_told(
        self, name: str, meant: str, settings_module: ModuleType
    ) -> None:
        # Django does not read them from the module.
        setattr(settings_module, name, None)
        assert warned(check_names) == [("affiliations.W013", name, f"Did you mean {meant}?")]

    def test_of_variables_of_the_module_pass(self, settings_module: ModuleType) -> None:
        settings_module.affiliate_consent = "shop.affiliates.consent"  # type: ignore[attr-defined]
        settings_module.affiliate_domain = "partners.example"  # type: ignore[attr-defined]
        settings_module._AFFILIATE_CONSENT = None  # type: ignore[attr-defined]
        with override_settings(AFFILIATE_CONSENT=settings_module.affiliate_consent):
            assert check_names() == []

    def test_are_also_told_without_a_module(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(django_settings, "SETTINGS_MODULE", None)
        with override_settings(AFFILIATE_CONSNT=None):
            assert [message.hint for message in check_names()] == [
                "Did you mean AFFILIATE_CONSENT?"
            ]

    def test_that_mean_nothing_are_told(self) -> None:
        with override_settings(AFFILIATE_OTTER=1):
            assert warned(check_names) == [
                (
                    "affiliations.W013",
                    "AFFILIATE_OTTER",
                    "Remove it: docs/reference/settings.rst lists all.",
                )
            ]

    def test_of_the_host_and_other_apps_pass(self) -> None:
        names = ["AFFILIATES_PER_PAGE", "CONSENT", "MY_AFFILIATE_CONSENT", "APPLICATE_COOKIES"]
        with override_settings(**dict.fromkeys(names, 1)):
            assert check_names() == []

    def test_that_exist_pass(self) -> None:
        with override_settings(**dict.fromkeys(properties_by_setting(), None)):
            assert check_names() == []


class TestStaffNamespaces:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [("admn", "admin"), ("admin:indx", "admin:index"), ("desk_indx", "desk_index")],
    )
    def test_that_are_misspelt_are_told(self, name: str, meant: str) -> None:
        with override_settings(
            ROOT_URLCONF=__name__, AFFILIATE_STAFF_NAMESPACES=["admin", "wagtailadmin_home", name]
        ):
            [(number, _setting, hint)] = warned(check_staff_namespaces)
        assert (number, hint) == ("affiliations.W015", f"Did you mean {meant!r}?")

    @override_settings(ROOT_URLCONF=__name__)
    @pytest.mark.parametrize("name", ["admin", "admin:index", "desk_index", "elsewhere", "desk"])
    def test_that_exist_or_are_quite_different_pass(self, name: str) -> None:
        with override_settings(AFFILIATE_STAFF_NAMESPACES=[name]):
            assert check_staff_namespaces() == []

    def test_are_not_looked_at_without_urls_or_with_a_wrong_value(self) -> None:
        with override_settings(AFFILIATE_STAFF_NAMESPACES="admn"):
            assert check_staff_namespaces() == []
        with override_settings(AFFILIATE_STAFF_NAMESPACES=["admn"]):
            from django.conf import settings

            del settings.ROOT_URLCONF
            assert check_staff_namespaces() == []


urlpatterns = [path("admin/", admin.site.urls), path("desk/", agrees, name="desk_index")]


@pytest.mark.django_db
def test_the_database_takes_every_field_without_a_warning() -> None:
    for model in apps.get_app_config("affiliations").get_models():
        assert model.check(databases=["default"]) == []
