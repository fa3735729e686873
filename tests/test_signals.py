"""What the host's receivers hear, and from whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.dispatch import Signal
from django.test.utils import isolate_apps

from affiliations.models import Partner
from affiliations.signals import announce


@pytest.mark.django_db
@isolate_apps("tests.testapp")
def test_what_the_host_has_a_proxy_of_is_told_of_under_its_own_name(
    django_capture_on_commit_callbacks: Any,
) -> None:
    class Friend(Partner):
        class Meta:
            proxy = True
            app_label = "testapp"

    signal, heard = Signal(), []

    def hear(sender: Any, partner: Partner, **kwargs: Any) -> None:
        heard.append((sender, partner))

    signal.connect(hear, sender=Partner)
    friend = Friend()
    with django_capture_on_commit_callbacks(execute=True):
        announce(signal, using="default", partner=friend)
        assert heard == []
    assert heard == [(Partner, friend)]
