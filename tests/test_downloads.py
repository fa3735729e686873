"""The CSV files of a partner page: one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.test import Client

from affiliations import db
from affiliations.conversions import settlements
from affiliations.models import Partner, SentForm, Subscription
from affiliations.partner_pages import downloads
from affiliations.reports import export
from tests.factories import PartnerFactory
from tests.test_views import NOW, convert, file, link, text

pytestmark = pytest.mark.django_db


@pytest.fixture
def partner(partner: Partner) -> Partner:
    partner.replace_page_link()
    return partner


@pytest.fixture
def many(subscription: Subscription, monkeypatch: pytest.MonkeyPatch) -> Subscription:
    """Make a file that is sent in several pieces, each of one row."""
    monkeypatch.setattr(export, "_ROWS", 1)
    for _ in range(5):
        convert(subscription)
    return subscription


@pytest.fixture
def begun(client: Client, partner: Partner, many: Subscription) -> Iterator[Any]:
    """Begin to read a file."""
    response = client.get(link(partner, "conversions.csv"))
    pieces = iter(response)
    assert [next(pieces), next(pieces)[:4]] == [b"\xef\xbb\xbf", b"Date"]
    yield response
    close(response)


def close(response: Any) -> None:
    """Close a response as a server does; the test client keeps the connection of the test."""
    response._iterator.close()


def test_a_second_file_is_refused_until_the_first_is_complete(
    client: Client, partner: Partner, begun: Any
) -> None:
    refused = client.get(link(partner, "conversions.csv"))

    assert refused.status_code == 429
    assert "Wait until it is complete, then try again." in refused.text
    assert refused["Retry-After"] == "10"
    assert "no-store" in refused["Cache-Control"]
    assert refused["X-Robots-Tag"] == "noindex, nofollow"
    assert refused["Referrer-Policy"] == "no-referrer"

    assert len(b"".join(begun).splitlines()) == 5
    assert len(file(client.get(link(partner, "conversions.csv")))) == 5
    assert not SentForm.objects.exists()


def test_a_statement_is_a_file_of_the_same_link(
    client: Client, partner: Partner, begun: Any
) -> None:
    settled = settlements.settle(partner, "EUR", NOW)
    assert settled is not None
    address = link(partner, f"settlements/{settled.pk}/statement.csv")
    assert client.get(address).status_code == 429
    close(begun)
    assert len(file(client.get(address))) == 5


def test_the_pages_and_the_files_of_other_partners_are_there_meanwhile(
    client: Client, partner: Partner, begun: Any
) -> None:
    other = PartnerFactory()
    other.replace_page_link()
    assert file(client.get(link(other, "conversions.csv"))) == []
    assert partner.name in text(client.get(link(partner)))


def test_a_download_that_was_broken_off_is_over(
    client: Client, partner: Partner, begun: Any
) -> None:
    close(begun)
    assert client.get(link(partner, "conversions.csv")).status_code == 200


def test_a_download_of_a_process_that_was_killed_is_over_after_a_minute(
    client: Client, partner: Partner, begun: Any
) -> None:
    SentForm.objects.update(sent_on=db.now() - timedelta(seconds=59))
    assert client.get(link(partner, "conversions.csv")).status_code == 429
    SentForm.objects.update(sent_on=db.now() - timedelta(seconds=61))
    assert len(file(client.get(link(partner, "conversions.csv")))) == 5


def test_a_download_that_takes_long_keeps_its_place(
    client: Client, partner: Partner, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "RENEW", 0.0)
    first = SentForm.objects.get().sent_on
    pieces = iter(begun)
    next(pieces)
    assert SentForm.objects.get().sent_on > first
    assert client.get(link(partner, "conversions.csv")).status_code == 429
    assert len(list(pieces)) == 4
    assert not SentForm.objects.exists()


def test_a_client_who_stopped_reading_gets_no_more_once_another_has_begun(
    client: Client, partner: Partner, begun: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    SentForm.objects.update(sent_on=db.now() - timedelta(seconds=61))
    other = client.get(link(partner, "conversions.csv"))
    assert other.status_code == 200
    monkeypatch.setattr(downloads, "RENEW", 0.0)
    with pytest.raises(RequestAborted):
        list(begun)
    close(begun)
    assert SentForm.objects.exists()
    assert len(file(other)) == 5


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_gets_the_file(partner: Partner) -> None:
    started, results = threading.Barrier(4), []

    def begin() -> None:
        try:
            started.wait(10)
            results.append(downloads.begin(partner))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 4
    assert sum(result is not None for result in results) == 1


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_under_asgi_a_client_who_disconnects_makes_room(
    client: Client, partner: Partner, many: Subscription
) -> None:
    path = link(partner, "conversions.csv")

    async def disconnect() -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
            "path": path, "query_string": b"", "headers": [(b"host", b"testserver")],
        }  # fmt: skip
        handler = ApplicationCommunicator(ASGIHandler(), scope)
        await handler.send_input({"type": "http.request"})
        start = await handler.receive_output(10)
        assert start["status"] == 200
        await handler.receive_output(10)
        await handler.send_input({"type": "http.disconnect"})
        await handler.wait(10)

    asyncio.run(disconnect())
    assert not SentForm.objects.exists()
    assert client.get(path).status_code == 200
