"""A model that is renamed keeps its conversions: references follow the name."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from affiliations.conversions import references
from affiliations.exceptions import Reason
from affiliations.models import Conversion, FailedTrigger, UncreditedTrigger
from affiliations.models.conversion_queries import reference_key
from affiliations.triggers import complete_trigger
from tests.arrivals import referred

pytestmark = pytest.mark.django_db


def credited(reference: str, **subscription: Any) -> Conversion:
    stated = {"visitor": referred(counting="every", **subscription), "reference": reference}
    conversion = complete_trigger(None, "Order placed", **stated)
    assert conversion is not None
    return conversion


def renamed(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    call_command("rename_references", "shop.order", "testapp.Order", **options)
    return capsys.readouterr().out


@pytest.mark.parametrize("batch", [1, 1000])
def test_references_follow_a_renamed_model(capsys: pytest.CaptureFixture[str], batch: int) -> None:
    old = [credited(f"shop.order:{number}") for number in range(3)]
    others = [credited("shop.orderline:1"), credited("Shop.order:1"), credited("W-1")]
    visitor = old[0].visitor
    UncreditedTrigger.objects.add(
        visitor, "Order placed", Reason.NOT_SUBSCRIBED, "shop.order:7", timezone.now()
    )
    FailedTrigger.objects.create(kind="credit", reference="shop.order:8", due_on=timezone.now())
    assert "5 references would be renamed." in renamed(capsys, dry_run=True)
    assert Conversion.objects.filter(reference__startswith="shop.order:").exists()
    assert "5 references were renamed." in renamed(capsys, batch=batch)
    for number, conversion in enumerate(old):
        conversion.refresh_from_db()
        assert conversion.reference == f"testapp.order:{number}"
        assert conversion.reference_key == reference_key(conversion.reference, is_test=False)
        # It is not counted again.
        stated = {"visitor": referred(counting="every"), "reference": conversion.reference}
        assert complete_trigger(None, "Order placed", **stated) is None
    for other in others:
        before = other.reference
        other.refresh_from_db()
        assert other.reference == before
    assert UncreditedTrigger.objects.get(visitor=visitor).reference == "testapp.order:7"
    assert FailedTrigger.objects.get().reference == "testapp.order:8"
    assert "0 references were renamed." in renamed(capsys)


def test_only_rows_with_a_reference_of_the_model_are_read() -> None:
    for reference in ("shop.order:1", "W-1"):
        credited(reference)
    assert list(references.rename("shop.order", "testapp.order", batch=1)) == [(1, [])]


def test_a_reference_that_is_taken_is_named_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    taken, free = credited("shop.order:1"), credited("shop.order:2")
    credited("testapp.order:1")
    for options in ({"dry_run": True}, {}):
        with pytest.raises(CommandError, match=r"1 conversions keep .*: shop\.order:1\."):
            renamed(capsys, **options)
    taken.refresh_from_db()
    free.refresh_from_db()
    assert (taken.reference, free.reference) == ("shop.order:1", "testapp.order:2")


@pytest.mark.parametrize(
    ("new", "options"),
    [("shop.nothing", {}), ("nothing", {}), ("shop.order", {}), ("testapp.order", {"batch": 0})],
)
def test_what_cannot_be_meant_is_refused(new: str, options: dict[str, int]) -> None:
    with pytest.raises(CommandError):
        call_command("rename_references", "shop.order", new, **options)


def test_a_reference_that_was_cut_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    conversion = credited("shop.order:" + "1" * 300)
    with pytest.raises(CommandError, match="too long"):
        renamed(capsys)
    conversion.refresh_from_db()
    assert conversion.reference.startswith("shop.order:")


def test_a_model_is_not_renamed_to_itself() -> None:
    with pytest.raises(CommandError, match="must be different"):
        call_command("rename_references", "testapp.order", "testapp.Order")
