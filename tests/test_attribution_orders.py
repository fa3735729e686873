"""Whose conversion it is, in whatever order clicks, ends of referrals and conversions fall."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import QuerySet
from django.test import Client
from django.utils import timezone

from affiliations.models import Conversion, Partner, Visitor
from affiliations.triggers import complete_trigger
from tests.arrivals import KEY, commit, remember
from tests.factories import PartnerFactory, SubscriptionFactory

pytestmark = pytest.mark.django_db

NOBODY = "-"

# What happens, in this order, in one browser: "A" and "B" follow a partner's link, "order" places
# an order, of which each is counted, and "sign-up" closes the referral. Behind a colon, to all that
# came by that partner's links until then: "A:expires", 31 days pass; "A:widens", 60 days count;
# "A:off" and "A:on", the deal ends and begins; "A:closes", a webhook credits the latest of A's
# referrals. Then who is credited for each order, sign-up and
# "closes": the first of A's referrals is "A1". First where the last click wins, then where the
# first does.
TABLE = [
    # One partner.
    ("order", "-", "-"),
    ("A order", "A1", "A1"),
    ("order A order", "- A1", "- A1"),
    ("A order order", "A1 A1", "A1 A1"),
    ("A A order", "A1", "A1"),
    ("A order A order", "A1 A1", "A1 A1"),
    ("A sign-up order", "A1 -", "A1 -"),
    ("A order sign-up", "A1 A1", "A1 A1"),
    ("A sign-up sign-up", "A1 -", "A1 -"),
    ("A sign-up A order", "A1 A2", "A1 A2"),
    ("A sign-up A sign-up", "A1 A2", "A1 A2"),
    ("A:closes A order", "- A1", "- A1"),
    ("A A:closes order", "A1 -", "A1 -"),
    ("A A:closes A order", "A1 A2", "A1 A2"),
    ("A A:expires order", "-", "-"),
    ("A order A:expires order", "A1 -", "A1 -"),
    ("A A:expires sign-up A order", "- A2", "- A2"),
    ("A A:expires A order", "A2", "A2"),
    ("A A:expires A:closes A order", "- A2", "- A2"),
    ("A A:expires A:widens order", "A1", "A1"),
    ("A:widens A A:expires order", "A1", "A1"),
    ("A A:expires A A:widens order", "A2", "A2"),
    ("A:off A order", "-", "-"),
    ("A:off A A:on order", "-", "-"),
    ("A A:off order", "-", "-"),
    ("A A:off A:closes A:on order", "- A1", "- A1"),
    ("A A:off A order", "-", "-"),
    ("A A:off A A:on order", "A1", "A1"),
    ("A order A:off order A:on order", "A1 - A1", "A1 - A1"),
    # Two partners; the other's click comes while the referral is open.
    ("A B order", "B1", "A1"),
    ("A order B order", "A1 B1", "A1 A1"),
    ("A B A order", "A2", "A1"),
    ("A B A B order", "B2", "A1"),
    ("A B sign-up order", "B1 -", "A1 -"),
    ("A B sign-up A order", "B1 A2", "A1 A2"),
    ("A B sign-up B order", "B1 B2", "A1 B2"),
    ("A order B sign-up order", "A1 B1 -", "A1 A1 -"),
    # What ends the first referral lets the other partner's click count in either model.
    ("A sign-up B order", "A1 B1", "A1 B1"),
    ("A A:closes B order", "A1 B1", "A1 B1"),
    ("A A:expires B order", "B1", "B1"),
    ("A A:off B order", "B1", "B1"),
    # And what begins anew does not take it back.
    ("A A:expires B A:widens order", "B1", "B1"),
    ("A A:off B A:on order", "B1", "B1"),
    ("A A:off B A:on A order", "A2", "B1"),
    ("A A:expires B A order", "A2", "B1"),
    # What ends it after the other's click: nobody else takes the place of who wins.
    ("A B A:closes order", "A1 B1", "A1 -"),
    ("A B A:expires order", "B1", "-"),
    ("A B A:off order", "B1", "-"),
    ("A B B:closes order", "B1 -", "B1 A1"),
    ("A B B:expires order", "-", "A1"),
    ("A B B:off order", "-", "A1"),
    ("A B A:off B:off order", "-", "-"),
    # Until somebody comes again, or the deal does.
    ("A B A:closes B order", "A1 B1", "A1 B2"),
    ("A B A:expires B order", "B1", "B2"),
    ("A B A:off B order", "B1", "B2"),
    ("A B A:off B A:on order", "B1", "B2"),
    ("A B A:off A:on order", "B1", "A1"),
    ("A B A:expires A:widens order", "B1", "A1"),
    ("A B B:closes A order", "B1 A2", "B1 A1"),
    ("A B B:expires A order", "A2", "A1"),
    ("A B B:off A order", "A2", "A1"),
    ("A B B:off B:on order", "B1", "A1"),
    ("A B B:expires B:widens order", "B1", "A1"),
    # The click on a link that leads to no deal changes nothing.
    ("A B:off B order", "A1", "A1"),
    ("A B:off B B:on order", "A1", "A1"),
    ("A A:off B:off B A:on order", "A1", "A1"),
    # A conversion between them belongs to who was there at that moment, and stays theirs.
    ("A order A:off B order", "A1 B1", "A1 B1"),
    ("A order A:expires B order", "A1 B1", "A1 B1"),
    ("A B order B:expires order", "B1 -", "A1 A1"),
    ("A B order A:expires order", "B1 B1", "A1 -"),
    ("A B order B:off A order", "B1 A2", "A1 A1"),
    ("A order B sign-up A order B order", "A1 B1 A2 B2", "A1 A1 A2 A2"),
]


class Story:
    """One browser, two partners, and what happens."""

    def __init__(self) -> None:
        self.client = Client()
        self.partners = {name: PartnerFactory(name=name) for name in "AB"}
        self.things = 0
        for partner in self.partners.values():
            for trigger, counting, closes in [
                ("Order placed", "every", False),
                ("User registered", "once", True),
                ("Paid", "every", True),
            ]:
                SubscriptionFactory(
                    partner=partner, trigger=trigger, counting=counting, closes_referral=closes
                )

    def play(self, steps: str) -> str:
        """Do all of it, and return who was credited for each conversion."""
        credited = []
        for step in steps.split():
            name, _, event = step.partition(":")
            before = set(Conversion.objects.values_list("pk", flat=True))
            self.things += 1
            if name in self.partners:
                self._happens(self.partners[name], event)
            else:
                data = {"name": f"visitor{self.things}@shop.example"}
                assert self.client.post(f"/{name}/", data).status_code == 200
            commit()
            new = Conversion.objects.exclude(pk__in=before).select_related("visitor__partner")
            if name not in self.partners or event == "closes":
                credited.append(self._name(*[conversion.visitor for conversion in new]))
            else:
                assert not new
        return " ".join(credited)

    def _happens(self, partner: Partner, event: str) -> None:
        theirs = Visitor.objects.filter(partner=partner)
        happening: dict[str, Callable[[], object]] = {
            "": lambda: self.client.get(partner.link("/page/")),
            "expires": lambda: self._time_passes(theirs),
            "widens": lambda: Partner.objects.filter(pk=partner.pk).update(
                window=timedelta(days=60)
            ),
            "off": lambda: Partner.objects.filter(pk=partner.pk).update(active=False),
            "on": lambda: Partner.objects.filter(pk=partner.pk).update(active=True),
            "closes": lambda: complete_trigger(
                None,
                "Paid",
                visitor=theirs.order_by("pk").last() or Visitor(pk=0),
                reference=str(self.things),
            ),
        }
        happening[event]()

    def _time_passes(self, theirs: QuerySet[Visitor]) -> None:
        """Let 31 days pass, of which the browser knows as well."""
        theirs.update(referred_on=timezone.now() - timedelta(days=31))
        session = self.client.session
        if (visitor := theirs.filter(pk=session.get(KEY)).first()) is not None:
            remember(session, visitor)

    @staticmethod
    def _name(visitor: Visitor | None = None) -> str:
        """Say whose referral it is, and which of theirs."""
        if visitor is None:
            return NOBODY
        theirs = Visitor.objects.filter(partner=visitor.partner).order_by("pk")
        number = [*theirs.values_list("pk", flat=True)].index(visitor.pk) + 1
        return f"{visitor.partner.name}{number}"


@pytest.mark.parametrize(("steps", "last_click", "first_click"), TABLE)
@pytest.mark.parametrize("model", ["last_click", "first_click"])
def test_each_conversion_is_credited_to_who_has_earned_it(
    settings, model: str, steps: str, last_click: str, first_click: str
) -> None:
    settings.AFFILIATE_ATTRIBUTION_MODEL = model
    expected = {"last_click": last_click, "first_click": first_click}[model]

    assert Story().play(steps) == expected

    assert Conversion.objects.count() == len(expected.replace(NOBODY, "").split())


def test_the_table_tells_each_story_once() -> None:
    stories = [steps for steps, *_ in TABLE]
    assert len(set(stories)) == len(stories)
