"""The same clients for code without an event loop: each has a thread with one, and waits for it.

client.restore(...) ──► thread ──► AsyncHttpClient.restore(...)
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

import grpc

from service.client.interface import TIMEOUT_S, WINDOW, AsyncRestorationClient
from service.client.options import Options
from service.client.over_grpc import AsyncGrpcClient
from service.client.over_http import AsyncHttpClient
from service.client.results import Answer, ImageSource, Job, Limits, Restored
from service.client.retry import Retry
from service.client.supply import PhotoSource

T = TypeVar("T")
_CANCEL_S = 10.0


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a client that nobody closed does not hold up the end of the program.
        self._thread = threading.Thread(target=self._loop.run_forever, name="latent-pmrf client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine; whatever interrupts the wait cancels it."""
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed")
        finished = threading.Event()

        async def told() -> T:
            try:
                return await work
            finally:
                finished.set()

        future = asyncio.run_coroutine_threadsafe(told(), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():  # interrupted: what was begun is over before anything else is asked
                finished.wait(_CANCEL_S)
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of a generator, one at a time; it is closed with this one."""
        end = object()

        async def following() -> T | object:
            return await anext(items, end)

        async def closing() -> None:
            await items.aclose()

        try:
            while (item := self.run(following())) is not end:
                yield item  # type: ignore[misc] # the end is none of them
        finally:
            if threading.current_thread() is self._thread:  # collected there; nobody may wait for himself
                asyncio.run_coroutine_threadsafe(closing(), self._loop)
            elif not self._loop.is_closed():
                self.run(closing())

    def close(self) -> None:
        """End the thread."""
        if not self._loop.is_closed():
            self.run(_end_tasks())
            self.run(self._loop.shutdown_asyncgens())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _end_tasks() -> None:
    """Cancel what other threads wait for: they are told."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


ClientT = TypeVar("ClientT", bound=AsyncRestorationClient)


class _BlockingClient(Generic[ClientT]):
    """What `AsyncRestorationClient` tells, call by call. May be used by several threads. A context manager."""

    def __init__(self, make: Callable[[], ClientT]) -> None:
        self._client = make()
        self._thread = _LoopThread()
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the connections."""
        self.close()

    def close(self) -> None:
        """Let go of the connections and the thread; once more does nothing."""
        if not self._closed:
            self._closed = True
            self._thread.run(self._client.close())
            self._thread.close()

    def restore(self, image: ImageSource, *, timeout_s: float | None = None, **options: Unpack[Options]) -> Restored:
        """Restore one photo."""
        return self._thread.run(self._client.restore(image, timeout_s=timeout_s, **options))

    def restore_batch(
        self, photos: PhotoSource, *, window: int = WINDOW, **options: Unpack[Options]
    ) -> Iterator[Answer]:
        """Restore any number of photos; answers come in the order in which they are ready."""
        return self._thread.iterate(self._client.restore_batch(photos, window=window, **options))

    def submit(
        self,
        image: ImageSource,
        *,
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Queue a photo as a job."""
        work = self._client.submit(
            image, idempotency_key=idempotency_key, webhook_url=webhook_url, timeout_s=timeout_s, **options
        )
        return self._thread.run(work)

    def get(self, job_id: str) -> Job:
        """Where a job is."""
        return self._thread.run(self._client.get(job_id))

    def watch(self, job_id: str) -> Iterator[Job]:
        """Where a job is, and again whenever that changes, until it has ended."""
        return self._thread.iterate(self._client.watch(job_id))

    def result(self, job_id: str) -> Restored:
        """The image of a job that has succeeded."""
        return self._thread.run(self._client.result(job_id))

    def cancel(self, job_id: str) -> Job:
        """Withdraw a job."""
        return self._thread.run(self._client.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Withdraw a job and forget everything of it."""
        self._thread.run(self._client.delete(job_id))

    def limits(self) -> Limits:
        """What the service accepts."""
        return self._thread.run(self._client.limits())


class HttpClient(_BlockingClient[AsyncHttpClient]):
    """The service over HTTP; arguments as `AsyncHttpClient`'s."""

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
        super().__init__(
            lambda: AsyncHttpClient(
                url, api_key=api_key, timeout_s=timeout_s, retry=retry, headers=headers, verify=verify
            )
        )


class GrpcClient(_BlockingClient[AsyncGrpcClient]):
    """The service over gRPC; arguments as `AsyncGrpcClient`'s."""

    def __init__(  # noqa: PLR0913 - what a connection is made of
        self,
        address: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = None,
        headers: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(
            lambda: AsyncGrpcClient(
                address, api_key=api_key, timeout_s=timeout_s, retry=retry, headers=headers, credentials=credentials
            )
        )
