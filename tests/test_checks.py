from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import checks
from django.core.checks import CheckMessage, Error, run_checks
from django.test import override_settings

from affiliations.checks import check_middleware, check_production, check_settings
from affiliations.middleware import AffiliateVisitorsRegistrationMiddleware

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
        ids = {message.id for message in run_checks(tags=["affiliations"])}
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
                "registered, and never recognised again.",
                hint=f"Move the line '{OURS}' below it.",
                id="affiliations.E004",
            ),
            checks.Warning(
                f"MIDDLEWARE does not list '{AUTHENTICATION}': nothing says which user a visitor "
                "was.",
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
    "AFFILIATE_SCREEN": ["affiliations.screening.own_account"],
    "AFFILIATE_ATTRIBUTE_BY_USER": [True, False],
    "AFFILIATE_IGNORE_BOTS": [True, False],
    "AFFILIATE_CALLBACK_DISPATCHER": [
        "affiliations.callbacks.dispatchers.thread",
        "tests.dispatchers.ignored",
    ],
    "AFFILIATE_CALLBACK_TIMEOUT": [(1, 2), [0.5, 0.5]],
    "AFFILIATE_CALLBACK_DEADLINE": [0.1, 20],
    "AFFILIATE_CALLBACK_LEASE": [61, 900.5],
    "AFFILIATE_CALLBACK_RETRY_SCHEDULE": [(0,), [0, 5, 0.5]],
    "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES": [True, False],
    "AFFILIATE_CALLBACK_REQUIRE_HTTPS": [True, False],
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
    "AFFILIATE_SCREEN": ["", None, print],
    "AFFILIATE_ATTRIBUTE_BY_USER": [None, 1, "yes"],
    "AFFILIATE_IGNORE_BOTS": [None, 0, "no"],
    "AFFILIATE_CALLBACK_DISPATCHER": ["", None, print],
    "AFFILIATE_CALLBACK_TIMEOUT": [5, (5,), (1, 2, 3), (0, 1), (1, None), "35", (1, -1), None],
    "AFFILIATE_CALLBACK_DEADLINE": [0, -1, None, "15", True, float("inf"), float("nan")],
    "AFFILIATE_CALLBACK_LEASE": [0, -1, None, "90", timedelta(seconds=90), 10**6],
    "AFFILIATE_CALLBACK_RETRY_SCHEDULE": [(), None, 5, (0, -5), (0, "5"), (timedelta(0),), (5,)],
    "AFFILIATE_CALLBACK_ALLOW_PRIVATE_ADDRESSES": [None, 1, "127.0.0.1"],
    "AFFILIATE_CALLBACK_REQUIRE_HTTPS": [None, 1],
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
        from affiliations.conf import Settings

        named = {
            name
            for value in vars(Settings).values()
            if isinstance(value, property)
            for name in re.findall(r"^``(AFFILIATE_\w+)``", value.fget.__doc__)
        }
        # A mistake in the triggers stops the start-up by itself.
        named.remove("AFFILIATE_TRIGGERS")
        assert set(RIGHT) == set(WRONG) == named

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
        "name", ["AFFILIATE_CALLBACK_DISPATCHER", "AFFILIATE_CONSENT", "AFFILIATE_SCREEN"]
    )
    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("nowhere.agrees", "cannot be imported: No module named 'nowhere'"),
            ("tests.test_checks.nobody", "cannot be imported: Module"),
            ("tests.test_checks.OURS", "cannot be called"),
            ("tests.test_checks.agrees_later", "is async, and nobody would await it"),
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
            ("affiliations.callbacks.dispatchers.threed", "cannot be imported: Module"),
            ("thread", "cannot be imported: thread doesn't look like a module path"),
            ("tests.test_checks.OURS", "cannot be called"),
        ],
    )
    def test_must_be_one_that_can_be_called(self, path: str, problem: str) -> None:
        with override_settings(AFFILIATE_CALLBACK_DISPATCHER=path):
            message = only(check_settings())
        assert message.id == "affiliations.E007"
        assert message.msg.startswith(f"AFFILIATE_CALLBACK_DISPATCHER is {path!r}, which {problem}")
        assert '= "affiliations.callbacks.dispatchers.thread"' in str(message.hint)


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
        assert "and are logged in no more" in message.msg
        assert message.hint == 'Write: SESSION_COOKIE_SAMESITE = "Lax"'

    def test_it_is_told_before_a_deployment_only(self) -> None:
        def told(**deployment: bool) -> bool:
            messages = run_checks(
                tags=["affiliations"], include_deployment_checks=deployment.get("deploy", False)
            )
            return "affiliations.W006" in {message.id for message in messages}

        assert told(deploy=True)
        assert not told()
