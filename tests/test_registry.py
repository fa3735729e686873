from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.signals import post_migrate, post_save, pre_save
from django.dispatch import Signal
from django.test import override_settings
from django.test.utils import isolate_apps

from affiliations import registry, triggers
from tests.testapp.models import (
    Booking,
    GroupBooking,
    Newsletter,
    Order,
    PhoneBooking,
)
from tests.testapp.signals import something_happened

USER = django_settings.AUTH_USER_MODEL
POST_SAVE = "django.db.models.signals.post_save"
CREATED = "affiliations.triggers.object_created"
SAVED = "affiliations.triggers.object_saved"
ORDER = (POST_SAVE, CREATED, "testapp.Order")


class Recorder:
    """A receiver that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, sender: object, **kwargs: Any) -> None:
        self.calls.append({"sender": sender, **kwargs})


recorder = Recorder()


@pytest.fixture
def calls() -> Iterator[list[dict[str, Any]]]:
    recorder.calls.clear()
    yield recorder.calls
    recorder.calls.clear()


def mistakes(*entries: Any) -> list[str]:
    """Return what is wrong with each trigger, as the error lists it."""
    with override_settings(AFFILIATE_TRIGGERS=list(entries)):
        try:
            registry.read()
        except ImproperlyConfigured as error:
            return [line[2:] for line in str(error).splitlines() if line.startswith("- ")]
    return []


def error_of(value: Any) -> str:
    with (
        override_settings(AFFILIATE_TRIGGERS=value),
        pytest.raises(ImproperlyConfigured) as caught,
    ):
        registry.read()
    return str(caught.value)


# What is connected


def test_the_app_in_installed_apps_connects_all_triggers_of_the_settings() -> None:
    # D1: it connected none.
    connected = {key[0][1] for key, *_ in post_save.receivers if key[0][0] == "affiliations"}
    assert connected == {"User registered", "Order placed"}
    assert post_save.has_listeners(Order)
    assert post_save.has_listeners(get_user_model())
    assert not post_save.has_listeners(Newsletter)


@pytest.mark.parametrize("signal", ["tests.testapp.signals.something_happened", something_happened])
@pytest.mark.parametrize("receiver", ["tests.test_registry.recorder", recorder])
@pytest.mark.parametrize(
    ("sender", "sent_by", "not_by"),
    [
        ("testapp.Order", Order, Newsletter),  # D23
        ("tests.testapp.models.Order", Order, Newsletter),
        (Order, Order, Newsletter),
        ("tests.settings", sys.modules["tests.settings"], Order),
        (recorder, recorder, None),
    ],
)
def test_each_item_is_a_dotted_path_or_the_object_itself(
    wire: Any, calls: Any, signal: Any, receiver: Any, sender: Any, sent_by: Any, not_by: Any
) -> None:
    wire([("Something", signal, receiver, sender)])
    something_happened.send(sender=not_by)
    assert calls == []
    something_happened.send(sender=sent_by, more="of it")
    assert calls == [
        {
            "sender": sent_by,
            "signal": something_happened,
            "affiliate_trigger_name": "Something",
            "more": "of it",
        }
    ]


def test_a_sender_of_none_means_everybody(wire: Any, calls: Any) -> None:
    # D23: it was impossible.
    wire([("Something", something_happened, recorder, None)])
    something_happened.send(sender=None)
    something_happened.send(sender="anybody")
    something_happened.send(sender=Order)
    assert [call["sender"] for call in calls] == [None, "anybody", Order]


def test_a_trigger_of_models_may_have_no_sender(wire: Any) -> None:
    wire([("Anything saved", post_save, recorder, None)])
    assert post_save.has_listeners(Newsletter)


def test_a_signal_that_is_not_of_models_may_have_any_sender(wire: Any) -> None:
    wire([("Migrated", post_migrate, recorder, apps.get_app_config("testapp"))])
    assert post_migrate.has_listeners(apps.get_app_config("testapp"))


def test_a_list_of_lists_will_do(wire: Any, calls: Any) -> None:
    wire([["Something", something_happened, recorder, None, {}]])
    something_happened.send(sender=None)
    assert len(calls) == 1


def test_several_triggers_hang_on_one_signal_one_sender_and_one_receiver(
    wire: Any, calls: Any
) -> None:
    wire([(name, something_happened, recorder, None) for name in ("One", "Two")])
    something_happened.send(sender=None)
    assert [call["affiliate_trigger_name"] for call in calls] == ["One", "Two"]


def test_one_trigger_hangs_on_several_senders_and_receivers(wire: Any, calls: Any) -> None:
    another = Recorder()
    wire(
        [
            ("Something", something_happened, recorder, Order),
            ("Something", something_happened, recorder, Newsletter),
            ("Something", something_happened, another, Order),
        ]
    )
    something_happened.send(sender=Order)
    something_happened.send(sender=Newsletter)
    assert [call["sender"] for call in calls] == [Order, Newsletter]
    assert len(another.calls) == 1


def test_a_trigger_that_is_written_twice_fires_once(wire: Any, calls: Any) -> None:
    wire([("Something", something_happened, recorder, None)] * 2)
    something_happened.send(sender=None)
    assert len(calls) == 1


def test_a_receiver_that_nobody_else_holds_goes_on_firing(wire: Any, calls: Any) -> None:
    def of_the_moment(sender: object, **kwargs: Any) -> None:
        recorder(sender, **kwargs)

    wire([("Something", something_happened, of_the_moment, None)])
    del of_the_moment
    something_happened.send(sender=None)
    assert len(calls) == 1


def test_ready_may_run_again_and_connects_nothing_twice(calls: Any) -> None:
    config = apps.get_app_config("affiliations")
    wanted = [("Something", something_happened, recorder, None)]
    try:
        with override_settings(AFFILIATE_TRIGGERS=wanted):
            config.ready()
            config.ready()
            something_happened.send(sender=None)
            assert len(calls) == 1
            assert not post_save.has_listeners(Order)
    finally:
        config.ready()
    something_happened.send(sender=None)
    assert len(calls) == 1
    assert post_save.has_listeners(Order)


def test_settings_that_cannot_be_read_leave_the_old_connections_as_they_are(
    wire: Any, calls: Any
) -> None:
    wire([("Something", something_happened, recorder, None)])
    with (
        override_settings(AFFILIATE_TRIGGERS=[("Something", something_happened, recorder)]),
        pytest.raises(ImproperlyConfigured),
    ):
        registry.connect()
    something_happened.send(sender=None)
    assert len(calls) == 1


def test_a_trigger_hears_of_the_proxies_and_children_of_its_sender(wire: Any, calls: Any) -> None:
    wire([("Booked", something_happened, recorder, "testapp.Booking")])
    for sender in (Booking, PhoneBooking, GroupBooking, Order, None):
        something_happened.send(sender=sender)
    assert [call["sender"] for call in calls] == [Booking, PhoneBooking, GroupBooking]
    registry.disconnect()
    assert not something_happened.has_listeners(Booking)
    assert not something_happened.has_listeners(GroupBooking)


def test_one_class_of_a_trigger_can_be_disconnected(wire: Any, calls: Any) -> None:
    wire([("Booked", something_happened, recorder, Booking)])
    [trigger] = registry.read()
    assert something_happened.disconnect(sender=PhoneBooking, dispatch_uid=trigger.dispatch_uid)
    for sender in (Booking, PhoneBooking, GroupBooking):
        something_happened.send(sender=sender)
    assert [call["sender"] for call in calls] == [Booking, GroupBooking]


@isolate_apps("tests.testapp")
def test_a_trigger_hears_of_a_class_that_is_defined_later(wire: Any, calls: Any) -> None:
    """Such as the proxy of an ``admin.py``, which Django imports when all apps are ready."""
    wire([("Booked", something_happened, recorder, Booking)])

    class Abstract(GroupBooking):
        class Meta:
            app_label = "testapp"
            abstract = True

    class Late(Abstract):
        class Meta:
            app_label = "testapp"

    something_happened.send(sender=Late)
    assert [call["sender"] for call in calls] == [Late]
    registry.disconnect()
    assert not something_happened.has_listeners(Late)


def test_a_child_hears_the_nearest_entry_of_its_signal_and_receiver(wire: Any, calls: Any) -> None:
    another = Recorder()
    wire(
        [
            ("Booked", something_happened, recorder, Booking),
            ("By telephone", something_happened, recorder, PhoneBooking),
            ("By telephone too", something_happened, recorder, PhoneBooking),
            ("Saved", post_save, recorder, Booking),
            ("Else", something_happened, another, Booking),
            ("Anything", something_happened, recorder, None),
        ]
    )
    something_happened.send(sender=PhoneBooking)
    names = [call["affiliate_trigger_name"] for call in calls]
    assert names == ["By telephone", "By telephone too", "Anything"]
    assert len(another.calls) == 1
    assert post_save.has_listeners(PhoneBooking)


async def test_an_async_receiver_hears_the_trigger_too(wire: Any, calls: Any) -> None:
    async def receiver(sender: object, **kwargs: Any) -> None:
        recorder(sender, **kwargs)

    wire([("Something", something_happened, receiver, None)])
    await something_happened.asend(sender=None)
    assert calls[0]["affiliate_trigger_name"] == "Something"


def test_no_trigger_at_all_is_no_mistake() -> None:
    assert mistakes() == []


# What stops the start-up


def test_settings_without_triggers_are_told_what_to_write(settings: Any) -> None:
    del settings.AFFILIATE_TRIGGERS
    with pytest.raises(ImproperlyConfigured) as caught:
        registry.read()
    assert str(caught.value).startswith("AFFILIATE_TRIGGERS is missing. Write, for example:")


@pytest.mark.parametrize(
    "value", [None, "User registered", {}, 5, ("User registered", *ORDER), iter([])]
)
def test_anything_but_a_list_of_triggers_is_told_what_to_write(value: Any) -> None:
    told = error_of(value)
    assert told.startswith(f"AFFILIATE_TRIGGERS is {value!r}, but must be a list with a tuple")


@pytest.mark.parametrize("value", [None, [()]])
def test_the_lines_to_write_are_right_as_they_are(value: Any) -> None:
    lines = error_of(value).partition("\n\n")[2]
    written: dict[str, Any] = {}
    exec(lines, written)
    assert len(written["AFFILIATE_TRIGGERS"]) == 1
    assert mistakes(*written["AFFILIATE_TRIGGERS"]) == []


def test_everything_that_is_wrong_is_told_at_once() -> None:
    # D23: the first one was a raw traceback.
    told = mistakes(
        ("Right", *ORDER),
        ("", "nowhere.signal", "nowhere.receiver", "nowhere.Model", {"nothing": ""}),
        ("Short", POST_SAVE),
    )
    assert [line.partition(":")[0] for line in told] == [
        "trigger 2 (''), item 1, the name",
        "trigger 2 (''), item 2, the signal",
        "trigger 2 (''), item 3, the receiver",
        "trigger 2 (''), item 4, the sender",
        "trigger 2 (''), item 5, the options",
        "trigger 3 ('Short'), which is ('Short', 'django.db.models.signals.post_save')",
    ]


@pytest.mark.parametrize("entry", [None, 5, (), ("Name",), ("Name", *ORDER, {}, 6), {"a": "b"}])
def test_a_trigger_of_another_length_is_told_what_to_be(entry: Any) -> None:
    [told] = mistakes(entry)
    assert f"which is {entry!r}: it must be a tuple of (name, signal, receiver, sender)" in told


@pytest.mark.parametrize("name", [None, 5, "", " Order", "Order ", b"Order"])
def test_a_name_is_text_without_blanks_around_it(name: Any) -> None:
    assert mistakes((name, *ORDER)) == [
        (
            f"trigger 1 ({name!r}), item 1, the name: it must be text without spaces at its start "
            "or end"
        )
    ]


def test_a_name_that_is_longer_than_the_column_is_refused() -> None:
    assert mistakes(("x" * 100, *ORDER)) == []
    [told] = mistakes(("x" * 101, *ORDER))
    assert told.endswith("item 1, the name: it has 101 characters; at most 100 are allowed")


@pytest.mark.parametrize(("one", "other"), [("Order", "ORDER"), ("Cafe", "café"), ("ss", "ß")])
def test_names_that_a_database_may_take_for_one_are_refused(one: str, other: str) -> None:
    [told] = mistakes((one, *ORDER), (other, *ORDER), ("Third", *ORDER))
    assert told.startswith(f"trigger 2 ({other!r}), item 1, the name: {one!r} is another trigger")


def test_one_name_may_stand_twice_with_the_same_options_only() -> None:
    first = ("Order", *ORDER, {"reference": "pk"})
    assert mistakes(first, ("Order", pre_save, SAVED, Order, {"reference": "pk"})) == []
    [told] = mistakes(first, ("Order", POST_SAVE, CREATED, Newsletter))
    assert "item 5, the options: another trigger of this name has different ones" in told


def equal_references(path: str, *senders: Any) -> list[str]:
    """Return what is wrong with one name for several senders whose references are at a path."""
    return mistakes(
        *(("Sale", POST_SAVE, CREATED, sender, {"reference": path}) for sender in senders)
    )


@pytest.mark.parametrize("path", ["pk", "id", "note", "__module__", "note.real"])
def test_two_models_whose_references_may_be_equal_are_told_what_to_write(path: str) -> None:
    [told] = equal_references(path, Order, Booking)
    assert told.startswith(
        f"trigger 2 ('Sale'), item 5, the options: 'reference': {path!r} may be equal for objects "
        "of testapp.Order and testapp.Booking, which would count as one. Leave it out"
    )
    assert told.endswith(f'lambda instance: f"{{instance._meta.label_lower}}:{{instance.{path}}}"')


def test_the_line_to_write_for_two_models_is_right_as_it_is() -> None:
    [told] = equal_references("pk", Order, Booking)
    reference = eval(told.partition("for example, ")[2])
    assert reference(Order(pk=5)) == "testapp.order:5"
    options = {"reference": reference}
    one = ("Sale", POST_SAVE, CREATED)
    assert mistakes((*one, Order, options), (*one, Booking, options)) == []
    assert mistakes((*one, Order), (*one, Booking)) == []


@pytest.mark.parametrize(
    ("path", "senders"),
    [
        ("pk", (Booking, PhoneBooking, GroupBooking)),  # one object
        ("note", (Booking, GroupBooking)),
        ("__module__", (Booking, GroupBooking)),
        ("pk", (Order, "tests.settings")),  # who knows
    ],
)
def test_references_that_are_equal_for_one_object_only_are_no_mistake(
    path: str, senders: Any
) -> None:
    entries = (("Sale", something_happened, SAVED, one, {"reference": path}) for one in senders)
    assert mistakes(*entries) == []


@isolate_apps("tests.testapp")
def test_models_that_refer_to_one_order_may_count_it_together() -> None:
    class Payment(models.Model):  # noqa: DJ008
        order = models.ForeignKey(Order, models.CASCADE)
        uuid = models.UUIDField()

        class Meta:
            app_label = "testapp"

    class Transfer(models.Model):  # noqa: DJ008
        order = models.OneToOneField(Order, models.CASCADE, primary_key=True)
        uuid = models.UUIDField()

        class Meta:
            app_label = "testapp"

    for path in ("order_id", "order.pk", "order.note", "uuid"):
        assert equal_references(path, Payment, Transfer) == []
    for path in ("pk", "order"):
        assert len(equal_references(path, Payment, Transfer)) == 1


def test_a_path_on_whatever_is_saved_takes_different_models_for_one() -> None:
    [told] = mistakes(("Saved", POST_SAVE, SAVED, None, {"reference": "pk"}))
    assert "'pk' may be equal for objects of different models, which would count as one" in told
    assert mistakes(("Saved", something_happened, SAVED, None, {"reference": "pk"})) == []


@pytest.mark.parametrize(
    "signal",
    [
        pre_save,
        "django.db.models.signals.m2m_changed",
        "django.contrib.auth.signals.user_logged_in",
    ],
)
def test_object_created_needs_a_signal_that_says_what_was_created(signal: Any) -> None:
    sender = USER if signal is pre_save else None
    [told] = mistakes(("Signed up", signal, CREATED, sender))
    assert told.startswith("trigger 1 ('Signed up'), item 3, the receiver: object_created needs a ")
    assert told.endswith(f'such as post_save. Write "{SAVED}"')
    assert mistakes(("Signed up", signal, SAVED, sender)) == []


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ("post_save", "cannot find 'post_save' (post_save doesn't look like a module path)"),
        (
            "django.db.models.signals.postsave",
            (
                "cannot find 'django.db.models.signals.postsave' "
                '(Module "django.db.models.signals" does not define a "postsave" attribute/class). '
                "Did you mean 'django.db.models.signals.post_save'?"
            ),
        ),
        ("nowhere.signals.sent", "cannot find 'nowhere.signals.sent' (No module named 'nowhere')"),
        (".signals.sent", "cannot find '.signals.sent' (TypeError: the 'package' argument"),
        ("", "cannot find ''"),
        (None, "None is not a django.dispatch.Signal"),
        (Signal, "<class 'django.dispatch.dispatcher.Signal'> is not a django.dispatch.Signal"),
        (
            "tests.testapp.models.Order",
            "'tests.testapp.models.Order' is not a django.dispatch.Signal",
        ),
    ],
)
def test_what_is_no_signal_is_told_why(signal: Any, why: str) -> None:
    [told] = mistakes(("Order", signal, CREATED, None))
    assert told.startswith(f"trigger 1 ('Order'), item 2, the signal: {why}")


@pytest.mark.parametrize(
    ("receiver", "why"),
    [
        (
            "affiliations.triggers.object_create",
            (
                "cannot find 'affiliations.triggers.object_create' "
                '(Module "affiliations.triggers" does not define a "object_create" '
                "attribute/class). Did you mean 'affiliations.triggers.object_created'?"
            ),
        ),
        ("tests.settings.NAME", "'tests.settings.NAME' cannot be called"),
        (None, "None cannot be called"),
        ("tests.test_registry.narrow", "'tests.test_registry.narrow' must accept **kwargs"),
    ],
)
def test_what_is_no_receiver_is_told_why(receiver: Any, why: str) -> None:
    [told] = mistakes(("Order", POST_SAVE, receiver, "testapp.Order"))
    assert told.startswith(f"trigger 1 ('Order'), item 3, the receiver: {why}")


def narrow(sender: object, instance: object) -> None:
    """Receive, but not what triggers send."""


@pytest.mark.parametrize(
    ("sender", "why"),
    [
        (
            "testapp.Ordr",
            (
                "cannot find 'testapp.Ordr' (App 'testapp' doesn't have a 'Ordr' model; No module "
                "named 'testapp'). Did you mean 'testapp.Order'?"
            ),
        ),
        ("shop.Order", "cannot find 'shop.Order' (No installed app with label 'shop'"),
        ("Order", "cannot find 'Order' (Order doesn't look like a module path)"),
        (
            "tests.testapp.models.Ordr",
            (
                "cannot find 'tests.testapp.models.Ordr' (Module \"tests.testapp.models\" does not "
                "define a \"Ordr\" attribute/class). Did you mean 'tests.testapp.models.Order'?"
            ),
        ),
        ("tests.settings", "<module 'tests.settings' from"),
        (Order(), "<Order: > is not a model, and only models send that signal"),
        (AbstractUser, f"{AbstractUser!r} is abstract and never saved. Name its subclass"),
    ],
)
def test_a_sender_that_would_never_send_is_told_why(sender: Any, why: str) -> None:
    [told] = mistakes(("Order", POST_SAVE, CREATED, sender))
    assert told.startswith(f"trigger 1 ('Order'), item 4, the sender: {why}")


def test_a_user_model_that_is_swapped_is_told_for_which() -> None:
    with override_settings(AUTH_USER_MODEL="testapp.Order"):
        [told] = mistakes(("User registered", POST_SAVE, CREATED, "auth.User"))
    assert "item 4, the sender: 'auth.User' is swapped for 'testapp.Order', which sends " in told


def test_a_misspelt_option_is_told_with_what_was_meant() -> None:
    [told] = mistakes(("Order", *ORDER, {"refrence": "pk"}))
    assert told.endswith(". Did you mean 'reference'?")
    [told] = mistakes(("Order", *ORDER, {1: "pk"}))
    assert "Did you mean" not in told


def test_a_misspelt_name_of_the_setting_is_told(settings: Any) -> None:
    del settings.AFFILIATE_TRIGGERS
    settings.AFFILIATE_TRIGGER = []
    with pytest.raises(ImproperlyConfigured, match=r"missing\. Rename AFFILIATE_TRIGGER,"):
        registry.read()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (5, "5 must be a dict"),
        ("visitor", "'visitor' must be a dict"),
        ({"visitr": "affiliate_visitor"}, "'visitr' is unknown; write one of instance, visitor, "),
        ({"visitor": "affiliate_visitr"}, "'visitor': testapp.Order has no attribute 'affiliate_v"),
        ({"user": "user."}, "'user': 'user.' is not an attribute path such as 'customer.user'"),
        ({"user": ""}, "'user': '' is not an attribute path"),
        ({"user": "user..pk"}, "'user': 'user..pk' is not an attribute path"),
        ({"user": "user()"}, "'user': 'user()' is not an attribute path"),
        ({"amount": 5}, "'amount': 5 must be an attribute path or a callable"),
        ({"amount": None}, "'amount': None must be an attribute path or a callable"),
        ({"instance": "order.user"}, "'instance': 'order.user' is not the name of an argument"),
        ({"instance": "class"}, "'instance': 'class' is not the name of an argument"),
        ({"instance": len}, "'instance': <built-in function len> is not the name of an argument"),
    ],
)
def test_options_that_could_state_nothing_are_told_why(options: Any, why: str) -> None:
    [told] = mistakes(("Order", *ORDER, options))
    assert told.startswith(f"trigger 1 ('Order'), item 5, the options: {why}")


def test_options_are_paths_or_callables() -> None:
    right = {
        "visitor": "affiliate_visitor",
        "user": "user_id",
        "reference": "pk",
        "amount": lambda order: order.total,
        "currency": "__module__.something",
    }
    assert mistakes(("Order", *ORDER, right)) == []


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("affiliate_visitor.partner.nme", "affiliations.Partner has no attribute 'nme'"),
        ("affiliate_visitor.patner.name", "affiliations.Visitor has no attribute 'patner'"),
        ("user.no_such_thing", f"{get_user_model()._meta.label} has no attribute 'no_such_thing'"),
    ],
)
def test_a_path_that_breaks_off_behind_a_relation_is_told_where(path: str, missing: str) -> None:
    [told] = mistakes(("Order", *ORDER, {"reference": path}))
    assert told.startswith(f"trigger 1 ('Order'), item 5, the options: 'reference': {missing}. ")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("__str__", "'__str__' of testapp.Order is a method"),
        ("affiliate_visitor.refusal", "'refusal' of affiliations.Visitor is a method"),
        ("affiliate_visitor.conversions", "'conversions' of affiliations.Visitor is many rows"),
        ("affiliate_visitor.conversions.first", "'conversions' of affiliations.Visitor is many"),
        ("affiliate_visitor.objects", "'objects' of affiliations.Visitor is many rows"),
    ],
)
def test_a_path_that_ends_in_no_value_is_told_why(path: str, wrong: str) -> None:
    [told] = mistakes(("Order", *ORDER, {"reference": path}))
    assert told.startswith(f"trigger 1 ('Order'), item 5, the options: 'reference': {wrong}")


@pytest.mark.parametrize(
    "path",
    [
        "affiliate_visitor.partner.name",
        "affiliate_visitor_id",
        "total.as_integer_ratio",  # who knows what a field holds
        "affiliate_visitor_id.real",
    ],
)
def test_a_path_is_looked_up_as_far_as_models_tell(path: str) -> None:
    assert mistakes(("Order", *ORDER, {"reference": path})) == []


# Triggers that decide on what others have counted

APPROVE = "affiliations.triggers.approve_conversions"
REJECT = "affiliations.triggers.reject_conversions"
PAID = ("Paid", something_happened, APPROVE, Order)


def test_two_lines_decide_what_a_third_counts() -> None:
    of = {"of": "Order"}
    assert mistakes(("Order", *ORDER), (*PAID, of), ("Back", POST_SAVE, REJECT, Order, of)) == []


def test_a_trigger_that_decides_may_stand_before_the_one_that_counts() -> None:
    assert mistakes((*PAID, {"of": "Order"}), ("Order", *ORDER)) == []


def test_a_receiver_of_the_hosts_may_decide_too(calls: Any, wire: Any) -> None:
    wire([("Order", *ORDER), ("Paid", something_happened, recorder, Order, {"of": "Order"})])
    something_happened.send(sender=Order)
    assert [call["affiliate_trigger_name"] for call in calls] == ["Paid"]


@pytest.mark.parametrize("trigger", [PAID, (*PAID, {"reference": "pk"})])
def test_a_trigger_that_decides_says_of_which(trigger: Any) -> None:
    [told] = mistakes(("Order", *ORDER), trigger)
    assert told == (
        "trigger 2 ('Paid'), item 5, the options: 'of' is missing: the name of the trigger whose "
        "conversions are decided"
    )


@pytest.mark.parametrize(
    ("of", "why"),
    [
        ("Oder", "'of': there is no trigger 'Oder' that counts. Did you mean 'Order'?"),
        ("Newsletter", "'of': there is no trigger 'Newsletter' that counts"),
        ("Paid", "'of': there is no trigger 'Paid' that counts"),
    ],
)
def test_what_is_decided_must_be_counted_by_another(of: str, why: str) -> None:
    [told] = mistakes(("Order", *ORDER), (*PAID, {"of": of}))
    assert told == f"trigger 'Paid', item 5, the options: {why}"


def test_of_is_the_name_of_a_trigger() -> None:
    [told] = mistakes((*PAID, {"of": Order}))
    assert told.endswith(f"'of': {Order!r} is not the name of a trigger")


def test_a_receiver_that_counts_decides_nothing() -> None:
    [told] = mistakes(("Order", *ORDER), ("Paid", POST_SAVE, CREATED, Order, {"of": "Order"}))
    assert told.endswith(
        "'of' has no effect here; this receiver uses only instance, visitor, user, code, "
        "reference, amount, currency"
    )


@pytest.mark.parametrize("key", ["visitor", "user", "code", "amount", "currency"])
def test_what_was_known_when_it_was_counted_is_not_said_again(key: str) -> None:
    [told] = mistakes(("Order", *ORDER), (*PAID, {"of": "Order", key: "pk"}))
    effect = "has no effect here; this receiver uses only instance, reference, of"
    assert told.endswith(f"options: {key!r} {effect}")


def test_a_decision_that_would_look_for_another_reference_is_told() -> None:
    """The one would be counted as "17" and looked for as "testapp.order:17"."""
    [told] = mistakes(("Order", *ORDER, {"reference": "pk"}), (*PAID, {"of": "Order"}))
    assert told == (
        "trigger 'Paid', item 5, the options: 'reference' is missing: 'Order' has one, and its "
        "conversions are found by it. Write the same here"
    )


def test_a_decision_that_looks_for_a_path_where_none_was_counted_is_told() -> None:
    """The one would be counted as "testapp.order:17" and looked for as "17"."""
    by_key = {"of": "Order", "reference": "pk"}
    [told] = mistakes(("Order", *ORDER), (*PAID, by_key))
    assert told == (
        "trigger 'Paid', item 5, the options: 'reference': 'Order' has none, so its "
        "conversions are found by the label and key of the object. Leave it out here, or write the "
        "same there"
    )


@pytest.mark.parametrize(
    ("counting", "deciding"),
    [
        (("Order", *ORDER), (*PAID[:3], Newsletter, {"of": "Order", "reference": "pk"})),
        (("Order", *ORDER), (*PAID, {"of": "Order", "reference": lambda order: order.note})),
        (("Order", *ORDER[:1], recorder, Order), (*PAID, {"of": "Order", "reference": "pk"})),
        (
            ("Order", something_happened, CREATED, None),
            (*PAID[:3], None, {"of": "Order", "reference": "pk"}),
        ),
    ],
    ids=["of_another_object", "as_it_says_itself", "as_a_receiver_of_the_hosts_says", "of_any"],
)
def test_a_decision_that_may_find_what_it_looks_for_is_wired(counting: Any, deciding: Any) -> None:
    assert mistakes(counting, deciding) == []


def test_a_decision_by_the_key_of_another_model_is_told() -> None:
    """A booking 5 would decide what order 5 has earned."""
    by_key = {"reference": "pk"}
    deciding = ("Paid", something_happened, APPROVE, Booking, {"of": "Order", **by_key})
    [told] = mistakes(("Order", *ORDER, by_key), deciding)
    assert told.endswith(
        "'reference': 'pk' of testapp.Booking is equal to 'pk' of testapp.Order only by chance. "
        "Name the path to that"
    )


def test_a_decision_by_a_path_to_the_key_that_was_counted_is_wired() -> None:
    by_user = {"of": "User", "reference": "user_id"}
    counting = ("User", POST_SAVE, CREATED, USER, {"reference": "pk"})
    assert mistakes(counting, (*PAID[:3], Order, by_user)) == []
    by_note = {"of": "User", "reference": "note"}
    assert mistakes(counting, (*PAID[:3], Order, by_note)) == []


@pytest.mark.parametrize(
    ("counted", "sender", "labels"),
    [
        ([Order], Newsletter, "testapp.Order"),
        ([PhoneBooking, GroupBooking], Booking, "testapp.PhoneBooking and testapp.GroupBooking"),
    ],
)
def test_a_decision_by_an_object_that_has_not_the_label_counted_is_told(
    counted: list[Any], sender: Any, labels: str
) -> None:
    counting = [("Sale", POST_SAVE, CREATED, one) for one in counted]
    [told] = mistakes(*counting, ("Paid", POST_SAVE, APPROVE, sender, {"of": "Sale"}))
    assert told.startswith(
        "trigger 'Paid', item 5, the options: 'reference' is missing: the conversions of 'Sale' "
        f"are found by label and key of {labels}, which {sender._meta.label} is not. Write, for "
        f'example, lambda instance: f"{counted[0]._meta.label_lower}:'
    )
    # A signal of the host's may send anything.
    assert mistakes(*counting, ("Paid", something_happened, APPROVE, sender, {"of": "Sale"})) == []


def test_paths_of_an_object_that_another_keyword_holds_cannot_be_looked_up() -> None:
    options = {"instance": "shipment", "reference": "parcel_number"}
    assert mistakes(("Parcel left", something_happened, CREATED, Order, options)) == []


def test_paths_of_a_sender_that_is_no_model_cannot_be_looked_up() -> None:
    assert mistakes(("Something", something_happened, CREATED, None, {"user": "buyer"})) == []


def test_a_module_that_breaks_when_it_is_imported_is_one_mistake_among_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "broken_host.py").write_text("undefined")
    monkeypatch.syspath_prepend(tmp_path)
    told = mistakes(
        ("One", POST_SAVE, "broken_host.receiver", Order), ("Two", None, CREATED, Order)
    )
    assert told == [
        (
            "trigger 1 ('One'), item 3, the receiver: cannot find 'broken_host.receiver' "
            "(NameError: name 'undefined' is not defined)"
        ),
        "trigger 2 ('Two'), item 2, the signal: None is not a django.dispatch.Signal",
    ]


def test_a_sender_may_be_an_object_in_a_module_that_is_no_app(
    monkeypatch: pytest.MonkeyPatch, wire: Any, calls: Any
) -> None:
    till = ModuleType("till")
    till.Till = "the till"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "till", till)
    wire([("Something", something_happened, recorder, "till.Till")])
    something_happened.send(sender="the till")
    assert len(calls) == 1


@pytest.mark.server
def test_a_site_with_a_wrong_trigger_does_not_start_and_says_why(tmp_path: Any) -> None:
    (tmp_path / "host_settings.py").write_text(
        "from tests.settings import *\n"
        f"AFFILIATE_TRIGGERS = [('Order', {POST_SAVE!r}, {CREATED!r}, 'shop.Order')]\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "django", "check"],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "host_settings",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert (
        "django.core.exceptions.ImproperlyConfigured: AFFILIATE_TRIGGERS has triggers that could "
        "not fire:\n"
        "- trigger 1 ('Order'), item 4, the sender: cannot find 'shop.Order' "
        "(No installed app with label 'shop'"
    ) in run.stderr
    assert f'"{USER}",  # the sender' in run.stderr


def test_the_receivers_of_0_12_have_their_names_for_ever() -> None:
    for name in ("complete_trigger", "object_created", "object_saved"):
        assert callable(getattr(triggers, name))
