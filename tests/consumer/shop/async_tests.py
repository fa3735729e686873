"""Not for pyright: django-types does not know ``AsyncClient``."""

from __future__ import annotations

from typing import assert_type

from django.test import AsyncClient

from affiliations.models import Partner, Visitor
from affiliations.testing import astart_referral


async def test_orders(async_client: AsyncClient, partner: Partner) -> None:
    assert_type(await astart_referral(async_client, partner), Visitor)
