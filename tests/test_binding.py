from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tls
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse

from affiliations.tracking import binding
from tests.arrivals import Wrapped


def test_the_request_is_bound_inside_the_block_and_not_after_it() -> None:
    request = HttpRequest()

    with binding.binding(request):
        assert binding.current_request() is request
        assert tls.request.path == request.path
        tls.request.path = "/changed/"

    assert request.path == "/changed/"
    assert binding.current_request() is None
    assert not tls.request


def test_a_crash_leaves_nothing_bound() -> None:
    """(D11)"""
    with pytest.raises(ZeroDivisionError), binding.binding(HttpRequest()):
        raise ZeroDivisionError

    assert binding.current_request() is None
    assert not tls.request


def test_a_request_inside_a_request_gives_the_outer_one_back() -> None:
    """(D11)"""
    outer, inner = HttpRequest(), HttpRequest()

    with binding.binding(outer):
        with binding.binding(inner):
            assert binding.current_request() is inner
        assert binding.current_request() is outer

    assert binding.current_request() is None


def test_a_crash_inside_a_request_gives_the_outer_one_back() -> None:
    """(D11)"""
    outer = HttpRequest()

    with binding.binding(outer):
        with pytest.raises(ZeroDivisionError), binding.binding(HttpRequest()):
            raise ZeroDivisionError
        assert binding.current_request() is outer


def test_a_request_that_is_bound_twice_is_released_twice() -> None:
    request = HttpRequest()

    with binding.binding(request):
        with binding.binding(request):
            pass
        assert binding.current_request() is request

    assert binding.current_request() is None


def test_a_request_closes_its_files_as_without_the_middleware() -> None:
    closed: list[HttpRequest] = []

    class Request(HttpRequest):
        def close(self) -> None:
            closed.append(self)

    request = Request()
    outer = binding.bind(request)
    binding.until_closed(request, outer, HttpResponse())
    request.close()
    assert closed == [request]


def test_the_proxy_of_django_tls_stands_for_the_request_that_is_bound() -> None:
    request = HttpRequest()

    with binding.binding(request):
        assert binding.real_request(tls.request) is request
    assert binding.real_request(tls.request) is None


def test_a_request_stands_for_itself_whatever_is_bound() -> None:
    request = HttpRequest()

    with binding.binding(HttpRequest()):
        assert binding.real_request(request) is request
        assert binding.real_request(None) is None


def test_a_request_that_a_framework_has_wrapped_stands_for_the_one_inside() -> None:
    request = HttpRequest()

    assert binding.real_request(Wrapped(request)) is request
    assert binding.unwrapped(Wrapped(request)) is binding.unwrapped(request) is request


def test_a_thread_of_the_hosts_own_has_no_request() -> None:
    seen = []

    with binding.binding(HttpRequest()):
        thread = threading.Thread(target=lambda: seen.append(binding.current_request()))
        thread.start()
        thread.join()

    assert seen == [None]


def test_threads_do_not_see_each_others_requests() -> None:
    both_are_bound = threading.Barrier(2, timeout=10)

    def served(request: HttpRequest) -> HttpRequest | None:
        with binding.binding(request):
            both_are_bound.wait()
            return binding.current_request()

    requests = [HttpRequest(), HttpRequest()]
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(served, requests))

    assert [id(request) for request in seen] == [id(request) for request in requests]


async def test_fifty_tasks_do_not_see_each_others_requests() -> None:
    waiting = 0
    all_are_bound = asyncio.Event()

    async def served(request: HttpRequest) -> bool:
        nonlocal waiting
        with binding.binding(request):
            waiting += 1
            if waiting == 50:
                all_are_bound.set()
            await asyncio.wait_for(all_are_bound.wait(), 10)
            in_a_thread = await sync_to_async(binding.current_request)()
            return binding.current_request() is request and in_a_thread is request

    seen = await asyncio.gather(*(served(HttpRequest()) for _ in range(50)))

    assert seen == [True] * 50
    assert binding.current_request() is None


async def test_a_cancelled_task_leaves_nothing_bound() -> None:
    begun = asyncio.Event()
    left_bound = []

    async def served() -> None:
        try:
            with binding.binding(HttpRequest()):
                begun.set()
                await asyncio.Event().wait()
        finally:
            left_bound.append(binding.current_request())

    task = asyncio.create_task(served())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert left_bound == [None]
