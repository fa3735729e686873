"""Whatever goes wrong on our side, the host's work stays: failures made in real databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.models.signals import post_save
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest

from affiliations.models import Callback, Conversion, Subscription, Visitor
from affiliations.tracking import binding
from affiliations.triggers import complete_trigger, object_created, object_saved
from tests.arrivals import referred, request_of
from tests.testapp.models import Elsewhere, Newsletter, Order
from tests.testapp.signals import something_happened

pytestmark = pytest.mark.django_db(transaction=True)

User = get_user_model()
TABLES = [model._meta.db_table for model in (Visitor, Subscription, Conversion, Callback)]


@contextmanager
def another_connection() -> Iterator[Any]:
    """Open a second connection to the database, which sees only what is committed."""
    other = connection.copy()
    try:
        yield other
    finally:
        other.close()


def committed(model: Any) -> int:
    """Count the rows of a model that are there for everybody."""
    with another_connection() as other, other.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {model._meta.db_table}")
        return int(cursor.fetchone()[0])


def execute(sql: str, on: Any = connection) -> None:
    with on.cursor() as cursor:
        cursor.execute(sql)


@contextmanager
def host(in_transaction: bool, **database: str) -> Iterator[None]:
    """Begin a transaction, or do not."""
    with transaction.atomic(**database) if in_transaction else nullcontext():
        yield


def place_order(request: HttpRequest, *, in_transaction: bool = False) -> None:
    """Save an order as a host does, with work of the host's before and after it."""
    with binding.binding(request), host(in_transaction):
        Newsletter.objects.create()
        Order.objects.create()
        Newsletter.objects.create()


def assert_only_the_hosts_work_is_there(callbacks: int = 0) -> None:
    assert committed(Newsletter) == 2
    assert committed(Order) == 1
    assert committed(Conversion) == callbacks
    assert committed(Callback) == callbacks


in_transaction_or_not = pytest.mark.parametrize(
    "in_transaction", [True, False], ids=["in_transaction", "in_autocommit"]
)


@contextmanager
def renamed(table: str) -> Iterator[None]:
    """Take a table away for a while."""
    execute(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        execute(f"ALTER TABLE {table}_away RENAME TO {table}")


@in_transaction_or_not
@pytest.mark.parametrize("table", [*TABLES, "django_session"])
def test_an_order_is_saved_though_a_table_of_ours_is_missing(
    caplog: pytest.LogCaptureFixture, in_transaction: bool, table: str
) -> None:
    visitor = referred()
    request = request_of(visitor)
    with renamed(table):
        place_order(request, in_transaction=in_transaction)
    assert_only_the_hosts_work_is_there()
    assert "Trigger “Order placed” failed." in caplog.text
    visitor.refresh_from_db()
    assert visitor.closed_on is visitor.successful_on is None


@in_transaction_or_not
def test_an_order_is_saved_though_a_constraint_refuses_our_rows(
    caplog: pytest.LogCaptureFixture, in_transaction: bool
) -> None:
    complete_trigger(None, "Order placed", visitor=referred())
    visitor = referred()
    index = "affiliations_test_one_callback_only"
    execute(f"CREATE UNIQUE INDEX {index} ON affiliations_callback (status)")
    try:
        place_order(request_of(visitor), in_transaction=in_transaction)
    finally:
        on_table = " ON affiliations_callback" if connection.vendor == "mysql" else ""
        execute(f"DROP INDEX {index}{on_table}")
    assert_only_the_hosts_work_is_there(callbacks=1)
    assert "IntegrityError" in caplog.text
    visitor.refresh_from_db()
    assert visitor.closed_on is visitor.successful_on is None


def test_an_order_is_saved_though_the_stated_user_is_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()
    ghost = User(pk=User().pk or 4711)
    complete_trigger(None, "Order placed", visitor=visitor, user=ghost)
    assert committed(Conversion) == 0
    assert "” failed." in caplog.text


# Locks


@contextmanager
def visitor_held_by_another_connection(visitor: Visitor) -> Iterator[None]:
    """Let somebody else work on the visitor's row, and not come to an end."""
    with another_connection() as other:
        execute("BEGIN", other)
        execute(f"UPDATE affiliations_visitor SET sub5 = 'held' WHERE id = {visitor.pk}", other)
        yield
        execute("ROLLBACK", other)


#: How each database is told not to wait for a lock.
IMPATIENCE = {
    "postgresql": ("SET lock_timeout = '50ms'", "SET lock_timeout = 0"),
    "mysql": ("SET innodb_lock_wait_timeout = 0", "SET innodb_lock_wait_timeout = 50"),
    "sqlite": ("PRAGMA busy_timeout = 50", "PRAGMA busy_timeout = 20000"),
}


@pytest.fixture
def impatient() -> Iterator[None]:
    impatience, patience = IMPATIENCE[connection.vendor]
    execute(impatience)
    yield
    execute(patience)


@pytest.mark.usefixtures("impatient")
@pytest.mark.only_on("postgresql", "mariadb")
@in_transaction_or_not
def test_an_order_is_saved_though_the_visitor_is_locked_for_too_long(
    caplog: pytest.LogCaptureFixture, in_transaction: bool
) -> None:
    visitor = referred()
    with visitor_held_by_another_connection(visitor):
        place_order(request_of(visitor), in_transaction=in_transaction)
        assert_only_the_hosts_work_is_there()
    assert "” failed." in caplog.text
    assert "lock" in caplog.text.lower()


@pytest.mark.only_on("postgresql")
@in_transaction_or_not
def test_an_order_is_saved_though_a_statement_of_ours_takes_too_long(
    caplog: pytest.LogCaptureFixture, in_transaction: bool
) -> None:
    visitor = referred()
    execute("SET statement_timeout = '100ms'")
    try:
        with visitor_held_by_another_connection(visitor):
            place_order(request_of(visitor), in_transaction=in_transaction)
            assert_only_the_hosts_work_is_there()
    finally:
        execute("SET statement_timeout = 0")
    assert "statement timeout" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.only_on("sqlite")
def test_an_order_is_saved_though_another_writes_to_sqlite_for_too_long(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = referred()
    with another_connection() as other:

        def write(order: Order) -> None:
            """Begin to write elsewhere when the order is saved and ours is not yet begun."""
            execute("BEGIN IMMEDIATE", other)

        wire([("Order placed", post_save, object_created, Order, {"amount": write})])
        with binding.binding(request_of(visitor)):
            Order.objects.create()
        execute("ROLLBACK", other)
    assert committed(Order) == 1
    assert committed(Conversion) == 0
    assert "database is locked" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.only_on("sqlite")
def test_a_transaction_that_has_only_read_goes_on_though_ours_finds_sqlite_locked(
    wire: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire([("Something", something_happened, object_saved, None)])
    visitor = referred("Something")
    with binding.binding(request_of(visitor)), transaction.atomic():
        assert Order.objects.count() == 0
        with visitor_held_by_another_connection(visitor):
            something_happened.send(sender=None)
        Order.objects.create()
    assert "database is locked" in caplog.text
    assert committed(Order) == 1
    # After the commit, when the lock is gone.
    assert committed(Conversion) == 1


# Deadlocks


@contextmanager
def deadlock_over(visitor: Visitor) -> Iterator[Callable[[], None]]:
    """
    Let another connection hold the visitor's row, and wait for a row of the host's.

    The host calls what it is given, which changes that row, and is then waited for: when it asks
    for the visitor, each waits for the other. The other has written more, so MariaDB ends the host.
    Once the other has changed the row, it takes everything back.
    """
    row = Newsletter.objects.create()
    change = f"UPDATE testapp_newsletter SET email = 'changed' WHERE id = {row.pk}"
    with another_connection() as other, ThreadPoolExecutor(max_workers=1) as pool:
        other.inc_thread_sharing()
        execute("BEGIN", other)
        for number in range(20):
            execute(f"INSERT INTO testapp_newsletter (email) VALUES ('other{number}')", other)
        execute(f"UPDATE affiliations_visitor SET sub5 = 'x' WHERE id = {visitor.pk}", other)
        waits: list[Future[None]] = []

        def change_as_the_other() -> None:
            execute(change, other)
            execute("ROLLBACK", other)

        def change_the_row() -> None:
            execute(change)
            waits.append(pool.submit(change_as_the_other))
            with another_connection() as watching:
                while not is_waiting(watching):
                    assert not waits[0].done()
                    time.sleep(0.005)

        yield change_the_row
        waits[0].result()
    row.delete()


def is_waiting(watching: Any) -> bool:
    """Tell whether anybody waits for a lock in this database."""
    sql = {
        "postgresql": (
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ),
        # Not innodb_trx: it shows the same to who asks more often than ten times a second.
        "mysql": (
            "SELECT 1 FROM information_schema.processlist "
            "WHERE db = DATABASE() AND state = 'Updating' AND time_ms > 10"
        ),
    }[connection.vendor]
    with watching.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone() is not None


@pytest.mark.only_on("mariadb")
def test_a_deadlock_that_has_ended_the_hosts_transaction_is_raised_as_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()

    def order() -> None:
        with binding.binding(request_of(visitor)), transaction.atomic():
            wait_to_meet()
            Newsletter.objects.create()
            Order.objects.create()

    with deadlock_over(visitor) as wait_to_meet, pytest.raises(OperationalError) as caught:
        order()
    assert caught.value.args[0] == 1213
    assert committed(Order) == committed(Newsletter) == committed(Conversion) == 0
    assert "” failed." not in caplog.text


@pytest.mark.only_on("mariadb")
@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_deadlock_in_what_had_waited_for_another_database_is_raised_as_itself_too(
    wire: Any,
) -> None:
    wire([("Something", post_save, object_created, Elsewhere)])
    visitor = referred("Something")

    def save() -> None:
        with binding.binding(request_of(visitor)), transaction.atomic():
            wait_to_meet()
            Newsletter.objects.create()
            with transaction.atomic(using="other"):
                Elsewhere.objects.create()

    with deadlock_over(visitor) as wait_to_meet, pytest.raises(OperationalError) as caught:
        save()
    assert caught.value.args[0] == 1213
    assert committed(Newsletter) == 0
    assert Elsewhere.objects.count() == 1


@pytest.mark.only_on("postgresql")
def test_a_deadlock_that_postgresql_ends_by_our_statement_leaves_the_hosts_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()
    execute("SET deadlock_timeout = '10ms'")
    try:
        with (
            deadlock_over(visitor) as wait_to_meet,
            binding.binding(request_of(visitor)),
            transaction.atomic(),
        ):
            wait_to_meet()
            Newsletter.objects.create()
            Order.objects.create()
    finally:
        execute("SET deadlock_timeout = DEFAULT")
    assert "deadlock detected" in caplog.text
    assert committed(Order) == committed(Newsletter) == 1
    # Credited after the host's commit.
    assert committed(Conversion) == 1


# Lost connections


def kill(victim: Any) -> None:
    """End a connection from the server's side."""
    with another_connection() as other:
        if connection.vendor == "postgresql":
            execute(
                f"SELECT pg_terminate_backend({victim.connection.info.backend_pid}, 1000)", other
            )
        else:
            execute(f"KILL {victim.connection.thread_id()}", other)


@pytest.fixture
def killed(wire: Any) -> Iterator[None]:
    """Lose the connection between the reads and the writes of a conversion."""
    wire(
        [
            (
                "Order placed",
                post_save,
                object_created,
                Order,
                {"amount": lambda order: kill(connection)},
            )
        ]
    )
    yield
    connection.close()


@pytest.mark.usefixtures("killed")
@pytest.mark.only_on("postgresql", "mariadb")
def test_a_connection_that_is_lost_in_the_hosts_transaction_is_told_to_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()

    def order() -> None:
        with transaction.atomic(), binding.binding(request_of(visitor)):
            Newsletter.objects.create()
            # Nothing of the host's comes after it that would notice by itself.
            Order.objects.create()

    with pytest.raises((OperationalError, InterfaceError)) as caught:
        order()
    assert not isinstance(caught.value, TransactionManagementError)
    assert "” failed." not in caplog.text
    connection.close()
    assert committed(Order) == committed(Newsletter) == committed(Conversion) == 0


@in_transaction_or_not
@pytest.mark.parametrize("count", [1, 2, 3])
def test_after_a_deadlock_an_order_is_recorded_again(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_transaction: bool,
    count: int,
) -> None:
    """On MariaDB concurrent inserts may deadlock, though rarely."""
    visitor, save, failures = referred(), Conversion.save, [*range(count)]

    def fail_at_first(conversion: Conversion, **kwargs: Any) -> None:
        if failures:
            failures.pop()
            raise OperationalError(1213, "Deadlock found when trying to get lock")
        save(conversion, **kwargs)

    monkeypatch.setattr(Conversion, "save", fail_at_first)
    place_order(request_of(visitor), in_transaction=in_transaction)
    # In a transaction once, after the commit.
    is_recorded = count < (2 if in_transaction else 3)
    assert_only_the_hosts_work_is_there(callbacks=int(is_recorded))
    assert ("” failed." in caplog.text) is (in_transaction or not is_recorded)
    if is_recorded:
        visitor.refresh_from_db()
        assert visitor.successful_on == Conversion.objects.get().created_on


@pytest.mark.usefixtures("killed")
@pytest.mark.only_on("postgresql", "mariadb")
def test_a_connection_that_is_lost_in_autocommit_takes_only_ours_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()
    with binding.binding(request_of(visitor)):
        Order.objects.create()
    assert "” failed." in caplog.text
    connection.close_if_unusable_or_obsolete()
    assert committed(Order) == Order.objects.count() == 1
    assert committed(Conversion) == 0


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@in_transaction_or_not
def test_what_is_kept_elsewhere_is_saved_though_our_database_is_down(
    settings: Any,
    wire: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_transaction: bool,
) -> None:
    wire([("Something", post_save, object_created, Elsewhere)])
    visitor = referred("Something")
    request = request_of(visitor)
    assert request.session["affiliate_visitor_id"] == visitor.pk
    connection.close()
    with monkeypatch.context() as down, binding.binding(request):
        down.setitem(connection.settings_dict, "PORT", "1")
        with host(in_transaction, using="other"):
            Elsewhere.objects.create()
    assert Elsewhere.objects.count() == 1
    assert "” failed." in caplog.text
    assert not Conversion.objects.exists()


# Transactions of other kinds


def test_a_transaction_that_the_host_will_roll_back_is_left_alone(
    caplog: pytest.LogCaptureFixture, django_assert_num_queries: Any
) -> None:
    visitor = referred()
    request = request_of(visitor)
    with transaction.atomic():
        Newsletter.objects.create()
        transaction.set_rollback(True)
        with django_assert_num_queries(0):
            assert complete_trigger(request, "Order placed", visitor=visitor) is None
    assert caplog.text == ""
    assert committed(Newsletter) == committed(Conversion) == 0


def test_an_error_that_the_host_swallows_keeps_its_own_consequences() -> None:
    visitor = referred()
    existing = Newsletter.objects.create()
    with transaction.atomic():
        with pytest.raises(DatabaseError):
            Newsletter.objects.create(pk=existing.pk)
        assert complete_trigger(None, "Order placed", visitor=visitor) is None
        with pytest.raises(TransactionManagementError):
            Newsletter.objects.count()
    assert committed(Conversion) == 0


@pytest.mark.only_on("postgresql")
def test_a_transaction_that_raw_sql_of_the_host_has_broken_is_the_hosts_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    visitor = referred()
    with transaction.atomic():
        with pytest.raises(DatabaseError):
            execute("SELECT nonsense")
        assert complete_trigger(None, "Order placed", visitor=visitor) is None
        with pytest.raises(InternalError, match="aborted"):
            Newsletter.objects.count()
        transaction.set_rollback(True)
    assert "” failed." in caplog.text


@contextmanager
def autocommit_off() -> Iterator[None]:
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_a_host_that_commits_by_itself_is_credited_with_its_commit() -> None:
    visitor = referred()
    request = request_of(visitor)
    with autocommit_off():
        with binding.binding(request):
            Order.objects.create()
        assert committed(Conversion) == committed(Order) == 0
        transaction.commit()
        assert committed(Conversion) == committed(Callback) == committed(Order) == 1


def test_a_host_that_rolls_back_by_itself_takes_ours_along() -> None:
    visitor = referred()
    with autocommit_off():
        with binding.binding(request_of(visitor)):
            Order.objects.create()
        assert Conversion.objects.count() == 1
        transaction.rollback()
    assert committed(Conversion) == committed(Order) == 0


@pytest.mark.parametrize("table", TABLES)
def test_a_host_that_commits_by_itself_keeps_its_order_though_a_table_of_ours_is_missing(
    table: str, caplog: pytest.LogCaptureFixture
) -> None:
    visitor = referred()
    request = request_of(visitor)
    with renamed(table), autocommit_off():
        place_order(request)
        transaction.commit()
    assert_only_the_hosts_work_is_there()
    assert "” failed." in caplog.text


@pytest.mark.only_on("mariadb")
def test_a_deadlock_is_raised_to_a_host_that_commits_by_itself_too() -> None:
    visitor = referred()
    request = request_of(visitor)
    with deadlock_over(visitor) as wait_to_meet, autocommit_off(), binding.binding(request):
        wait_to_meet()
        with pytest.raises(OperationalError) as caught:
            Order.objects.create()
        assert caught.value.args[0] == 1213


# Isolation


@contextmanager
def isolated(level: str) -> Iterator[None]:
    """Begin a transaction of another isolation level, with a look that fixes what it sees."""
    if connection.vendor == "mysql":
        execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    try:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            Visitor.objects.count()
            yield
    finally:
        if connection.vendor == "mysql":
            execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


def in_another_thread(work: Callable[[], object]) -> None:
    """Do something on a connection of its own, and commit it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed


@pytest.mark.only_on("postgresql", "mariadb")
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_of_any_isolation_is_credited(level: str) -> None:
    visitor = referred()
    with binding.binding(request_of(visitor)), isolated(level):
        Order.objects.create()
    assert committed(Order) == committed(Conversion) == committed(Callback) == 1


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(
    "level",
    [
        pytest.param("REPEATABLE READ", marks=pytest.mark.only_on("postgresql", "mariadb")),
        # On MariaDB its look alone keeps everybody else from writing.
        pytest.param("SERIALIZABLE", marks=pytest.mark.only_on("postgresql")),
    ],
)
def test_a_transaction_that_cannot_see_what_was_just_counted_counts_nothing_and_commits(
    level: str, closes: bool
) -> None:
    visitor = referred(closes_referral=closes)
    with binding.binding(request_of(visitor)), isolated(level):
        in_another_thread(lambda: complete_trigger(None, "Order placed", visitor=visitor))
        Order.objects.create()
    assert committed(Order) == committed(Conversion) == committed(Callback) == 1


@pytest.mark.only_on("postgresql", "mariadb")
def test_an_order_that_was_credited_to_another_out_of_sight_is_not_credited_again() -> None:
    one = referred(counting="every")
    other = referred(counting="every")
    with isolated("REPEATABLE READ"):
        in_another_thread(
            lambda: complete_trigger(None, "Order placed", visitor=other, reference="17")
        )
        Order.objects.create()
        assert complete_trigger(None, "Order placed", visitor=one, reference="17") is None
    assert committed(Order) == committed(Conversion) == 1
    one.refresh_from_db()
    assert one.closed_on is None
