"""What a visitor can do on the test host; each view once sync and once async."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from tests.testapp.models import Order
from tests.testapp.signals import something_happened


def plain(request: HttpRequest) -> HttpResponse:
    """Answer without touching session, user or database."""
    return HttpResponse("plain")


async def aplain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


@csrf_exempt
def order(request: HttpRequest) -> HttpResponse:
    """Place an order, which fires "Order placed"."""
    return HttpResponse(str(Order.objects.create(note=request.POST.get("note", "")).pk))


@csrf_exempt
async def aorder(request: HttpRequest) -> HttpResponse:
    placed = await Order.objects.acreate(note=request.POST.get("note", ""))
    return HttpResponse(str(placed.pk))


@csrf_exempt
def sign_up(request: HttpRequest) -> HttpResponse:
    """Register a user, which fires "User registered"."""
    User = get_user_model()
    user = User.objects.create_user(
        **{User.USERNAME_FIELD: request.POST["name"], "password": "secret"}
    )
    return HttpResponse(str(user.pk))


@csrf_exempt
async def asign_up(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(sign_up)(request)


@csrf_exempt
def something(request: HttpRequest) -> HttpResponse:
    """Send the host's own signal."""
    something_happened.send(sender=None, request=request)
    return HttpResponse("something")


@csrf_exempt
async def asomething(request: HttpRequest) -> HttpResponse:
    await something_happened.asend(sender=None, request=request)
    return HttpResponse("something")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Place an order while the answer is sent."""

    def parts() -> Iterator[str]:
        yield "begun "
        yield str(Order.objects.create(note="streamed").pk)

    return StreamingHttpResponse(parts())


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "begun "
        yield str((await Order.objects.acreate(note="streamed")).pk)

    return StreamingHttpResponse(parts())


queued: asyncio.Queue[str] = asyncio.Queue()
workers: list[asyncio.Task[None]] = []


async def aqueue(request: HttpRequest) -> HttpResponse:
    """Let a background task, which the first request begins, place the order."""

    async def work() -> None:
        while True:
            await Order.objects.acreate(note=await queued.get())
            queued.task_done()

    if not workers:
        workers.append(asyncio.create_task(work()))
        return HttpResponse("begun")
    await queued.put("queued")
    await queued.join()
    return HttpResponse("placed")
