"""The service over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from service.client.credentials import fits_a_header, with_key
from service.client.errors import RestorationError, ServerUnreachable, of_problem, unreadable, without_trace
from service.client.interface import TIMEOUT_S, WINDOW
from service.client.options import Options, as_fields
from service.client.photo_files import read_photo
from service.client.results import Answer, ImageSource, Job, Limits, Photo, Report, Restored
from service.client.retry import Retry, retried, unless_gone, until_gone, watched
from service.client.supply import PhotoSource, Supply

T = TypeVar("T")
_CONNECT_S = 10.0
_SILENCE_S = 60.0  # of events: the service sends a sign of life every fifteen seconds
_JOBS = "/v1/restorations"
_STATES = {"status", "end"}  # events that tell where a job is; there are others


class AsyncHttpClient:
    """See `AsyncRestorationClient`. A context manager.

    Args:
        url: Where the service is, such as `http://127.0.0.1:8000`.
        timeout_s: Longest time of a call with all its attempts.
        retry: When to try again.
        api_key: Key of the service, where it asks for one; None: that of `LATENT_PMRF_API_KEY`, if there is one.
        headers: Sent with every request, such as an `Authorization` that a proxy asks for.
        verify: TLS: certificates to trust, by default the system's, and one to show.

    Raises:
        ValueError: The key, or a header, can be none.
    """

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._max_upload_bytes: int | None = None
        trusted = httpx.create_ssl_context(verify)  # once: to read the system's certificates takes a while
        made = partial(httpx.AsyncClient, base_url=url, headers=with_key(headers, api_key), verify=trusted)
        # Times are counted per call, not per read: a photo may take minutes without a byte on the connection.
        patience = httpx.Timeout(None, connect=_CONNECT_S)
        self._http = made(timeout=patience)
        # A watch has a connection to itself as long as its job takes; a limit would keep other calls from theirs.
        silence = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        self._watching = made(timeout=silence, limits=httpx.Limits(max_keepalive_connections=0))

    async def __aenter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    async def __aexit__(self, *_ended: object) -> None:
        """Let go of the connections."""
        await self.close()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()
        await self._watching.aclose()

    async def restore(
        self, image: ImageSource, *, timeout_s: float | None = None, **options: Unpack[Options]
    ) -> Restored:
        """Restore one photo; see `AsyncRestorationClient`."""
        fields = as_fields(options)
        where = ""  # it is kept, once it is restored

        async def attempt(_left_s: float) -> Restored:
            nonlocal where
            response = await unless_gone(self._send("GET", f"{where}/result")) if where else None
            if response is None:
                form = await self._form(image, fields)
                with _told_unreachable():
                    async with self._http.stream("POST", "/restore", **form) as response:
                        where = _place_in(response)  # known before the image is here, or where there is no room for it
                        await _check(response)
                        await response.aread()
            report = None
            if where:
                with contextlib.suppress(RestorationError):  # the photo is restored; only its report is gone
                    report = _told(Report.of, await self._send("GET", where))
            return _restored(response, report)

        return await self._retried(attempt, timeout_s)

    async def restore_batch(
        self, photos: PhotoSource, *, window: int = WINDOW, **options: Unpack[Options]
    ) -> AsyncGenerator[Answer, None]:
        """Restore any number of photos, some at once; see `AsyncRestorationClient`."""
        supply = Supply(photos, window, Retry(attempts=1))
        pulling: asyncio.Task[Photo | None] | None = asyncio.create_task(supply.next())
        restoring: set[asyncio.Task[Answer]] = set()
        try:
            while pulling is not None or restoring:
                waiting: set[asyncio.Task[Any]] = {*restoring, *([] if pulling is None else [pulling])}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if pulling is not None and pulling.done():
                    photo = pulling.result()
                    if photo is not None:
                        restoring.add(asyncio.create_task(self._answer(photo, options)))
                    pulling = None if photo is None else asyncio.create_task(supply.next())
                    del photo
                for task in [task for task in restoring if task.done()]:
                    restoring.remove(task)
                    answer = task.result()
                    supply.answered(answer.client_id)
                    yield answer
                    del answer, task  # the next one may be long in coming
        finally:
            left: list[asyncio.Task[Any]] = [*restoring, *([] if pulling is None else [pulling])]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await supply.close()

    async def submit(
        self,
        image: ImageSource,
        *,
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Queue a photo as a job; see `AsyncRestorationClient`."""
        fields = as_fields(options) | ({"webhook_url": webhook_url} if webhook_url else {})
        headers = {"Prefer": "respond-async", "Idempotency-Key": _quoted(idempotency_key or uuid.uuid4().hex)}

        async def attempt(_left_s: float) -> Job:
            form = await self._form(image, fields)
            return _told(Job.of, await self._send("POST", _JOBS, headers=headers, **form))

        return await self._retried(attempt, timeout_s)

    async def get(self, job_id: str) -> Job:
        """Where a job is."""
        return _told(Job.of, await self._ask("GET", _path(job_id)))

    def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Where a job is, until it has ended; see `AsyncRestorationClient`."""
        return watched(lambda: self._events(job_id), self._retry)

    async def result(self, job_id: str) -> Restored:
        """The image of a job that has succeeded."""
        response = await self._ask("GET", f"{_path(job_id)}/result")
        report = _told(Report.of, await self._ask("GET", _path(job_id)))
        return _restored(response, report)

    async def cancel(self, job_id: str) -> Job:
        """Withdraw a job."""
        return _told(Job.of, await self._ask("POST", f"{_path(job_id)}/cancel"))

    async def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything of it."""
        await self._retried(until_gone(lambda _left_s: self._send("DELETE", _path(job_id))), None)

    async def limits(self) -> Limits:
        """What the service accepts."""
        return _told(Limits.of, await self._ask("GET", "/v1/limits"))

    async def _answer(self, photo: Photo, options: Options) -> Answer:
        try:
            restored = await self.restore(photo.image, **(options if photo.options is None else photo.options))
        except ServerUnreachable:
            raise
        except RestorationError as error:
            return Answer(photo.client_id, error=without_trace(error))
        except OSError as error:
            return Answer(photo.client_id, error=unreadable(error))
        return Answer(photo.client_id, restored=restored)

    async def _form(self, image: ImageSource, fields: Mapping[str, str]) -> dict[str, Any]:
        """A multipart form; a file that the service would refuse for its size is not read."""
        if self._max_upload_bytes is None:
            response = await self._send("GET", "/v1/limits")
            self._max_upload_bytes = _told(Limits.of, response).max_upload_bytes
        return {"files": {"image": ("photo", await read_photo(image, self._max_upload_bytes))}, "data": dict(fields)}

    async def _events(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The states of a job as one connection tells them."""
        with _told_unreachable():
            async with self._watching.stream("GET", f"{_path(job_id)}/events") as response:
                await _check(response)
                kind = ""
                async for line in response.aiter_lines():
                    if line.startswith("event:"):
                        kind = line.removeprefix("event:").strip()
                    elif line.startswith("data:") and kind in _STATES:
                        yield Job.of(json.loads(line.removeprefix("data:")))

    async def _ask(self, method: str, path: str) -> httpx.Response:
        """A request without a body, which may be repeated."""
        return await self._retried(lambda _left_s: self._send(method, path), None)

    async def _retried(self, attempt: Callable[[float], Awaitable[T]], timeout_s: float | None) -> T:
        try:
            return await retried(attempt, self._retry, self._timeout_s if timeout_s is None else timeout_s)
        except RestorationError as error:
            if error.code == "upload_too_large":
                self._max_upload_bytes = None  # a service that was started anew may accept something else
            raise

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """One attempt.

        Raises:
            RestorationError: The service refuses.
            ServerUnreachable: There is no answer.
        """
        with _told_unreachable():
            response = await self._http.request(method, path, **content)
        await _check(response)
        return response


async def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    await response.aread()
    members: dict[str, Any] = {}
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        members = _document(response)
    raise of_problem(members, status=response.status_code, retry_after=response.headers.get("retry-after"))


def _document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        RestorationError: It has none: somebody else answers at the address.
    """
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _of_another(response)
    return document


def _told(read: Callable[[Mapping[str, Any]], T], response: httpx.Response) -> T:
    """What the JSON of an answer tells.

    Raises:
        RestorationError: It is not the service's.
    """
    document = _document(response)
    try:
        return read(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _of_another(response) from error


def _restored(response: httpx.Response, report: Report | None) -> Restored:
    """The image of an answer.

    Raises:
        RestorationError: It is none, such as a proxy's page.
    """
    media_type = response.headers.get("content-type", "")
    if not media_type.startswith("image/"):
        raise _of_another(response)
    return Restored(response.content, media_type, report)


def _of_another(response: httpx.Response) -> RestorationError:
    return of_problem({"detail": f"{response.url} is answered by something else"}, status=response.status_code)


def _quoted(key: str) -> str:
    """An idempotency key as a header's value; in quotes, for a header's spaces at the ends are nobody's.

    Raises:
        RestorationError: No header can have it; the code is the service's.
    """
    if not fits_a_header(key):
        detail = "idempotency_key must have visible ASCII characters"
        title = "The request cannot be parsed"
        raise RestorationError(detail, code="malformed_request", title=title, hint="a UUID will do")
    return f'"{key}"'


def _path(job_id: str) -> str:
    return f"{_JOBS}/{quote(job_id, safe='')}"


def _place_in(response: httpx.Response) -> str:
    """Where an answer says that a restored photo is kept; empty where it does not."""
    where: str = response.headers.get("location", "")
    return where if where.startswith(f"{_JOBS}/") else ""


@contextlib.contextmanager
def _told_unreachable() -> Iterator[None]:
    """What the network does in the block is told as `ServerUnreachable`."""
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise ServerUnreachable(str(error) or type(error).__name__) from error
