"""The private link of a partner's page: what is stored opens nothing, and the link does."""

from __future__ import annotations

import pytest
from django.test import override_settings

from affiliations.models import Partner
from affiliations.models.partner import new_page_key, opens_page, page_token


def test_the_token_fits_the_key_that_it_was_made_with_and_no_other() -> None:
    key = new_page_key("moox6esi")
    token = page_token("moox6esi", key)
    assert token is not None
    assert len(token) == 43
    assert opens_page(token, key)
    assert not opens_page(token, new_page_key("moox6esi"))


def test_who_reads_the_database_has_no_link() -> None:
    key = new_page_key("moox6esi")
    for part in (key, *key.split(":")):
        assert not opens_page(part, key)
    with override_settings(SECRET_KEY="a guess"):
        assert page_token("moox6esi", key) is None


def test_the_key_of_one_partner_makes_no_token_for_another() -> None:
    assert page_token("another1", new_page_key("moox6esi")) is None


def test_a_link_opens_the_page_after_the_secret_key_was_replaced() -> None:
    key = new_page_key("moox6esi")
    token = page_token("moox6esi", key)
    assert token is not None
    with override_settings(SECRET_KEY="another"):
        assert opens_page(token, key)


def test_a_link_can_be_shown_while_its_secret_key_is_a_fallback() -> None:
    with override_settings(SECRET_KEY="old"):
        key = new_page_key("moox6esi")
        token = page_token("moox6esi", key)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert page_token("moox6esi", key) == token
    with override_settings(SECRET_KEY="new"):
        assert page_token("moox6esi", key) is None


@pytest.mark.parametrize("key", ["", ":", "seed:", "seed"])
def test_no_token_fits_where_there_is_no_key(key: str) -> None:
    assert page_token("moox6esi", key) is None
    for token in ("", ":", "x" * 43):
        assert not opens_page(token, key)


@pytest.mark.parametrize(
    "value", ["", "x", "x" * 42, "x" * 44, "x" * 43 + "\n", "ä" * 43, "=" * 43]
)
def test_what_is_no_token_is_not_looked_for(value: str) -> None:
    # A query would fail: the test has no database.
    assert Partner.objects.by_page_link("moox6esi", value) is None
