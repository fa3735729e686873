"""Forms that are saved beside a stop for fraud: processes with connections of their own."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import django
import pytest
from django.test import Client

from affiliations.models import Partner
from tests.factories import PartnerFactory
from tests.test_admin import url

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.only_on("postgresql", "mariadb"),
    pytest.mark.server,
    pytest.mark.slow,
]

ROUNDS = 30
#: The longest time that a form takes, in seconds.
FORM = 0.05


def save(at: float, cookies: dict[str, str], address: str, form: dict[str, Any]) -> int:
    """Send a form at this time, in a process of its own."""
    client = Client()
    client.cookies.load(cookies)
    time.sleep(max(at - time.time(), 0))
    return client.post(address, form).status_code


def stop(at: float, key: int) -> None:
    from affiliations.conversions.decisions import stop_for_fraud

    partner = Partner.objects.get(pk=key)
    time.sleep(max(at - time.time(), 0))
    stop_for_fraud(partner, reason="Own orders")


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn"), django.setup) as executor:
        yield executor


@pytest.mark.parametrize("was_active", [True, False])
def test_a_form_saved_beside_a_stop_for_fraud_reactivates_nobody(
    was_active: bool, staff: Client, pool: ProcessPoolExecutor
) -> None:
    from tests.test_admin_changes import opened

    cookies = {name: morsel.value for name, morsel in staff.cookies.items()}
    for number in range(ROUNDS):
        partner = PartnerFactory(active=was_active)
        form = opened(staff, partner) | {"active": "on", "name": "Renamed"}
        at = time.time() + 0.05
        saved = pool.submit(save, at, cookies, url(partner), form)
        stopped = pool.submit(stop, at + random.random() * FORM, partner.pk)
        assert stopped.result(60) is None
        assert saved.result(60) in (200, 302)
        partner.refresh_from_db()
        assert (number, partner.active, partner.is_stopped) == (number, False, True)
