"""The same clients for code without an event loop: each has a thread with one, and waits for it.

client.restore(...) ──► thread ──► AsyncHttpClient.restore(...)
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
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
    """An event loop in a thread; both begin with the first call, so that a process forked before it has its own."""

    def __init__(self) -> None:
        # Reentrant: the collector may end an iterator in the midst of another call.
        self._lock = threading.RLock()
        self._begun: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None
        self._owner = 0  # process of the thread, once there is one
        self._closed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine; whatever interrupts the wait cancels it.

        Raises:
            RuntimeError: Nobody would ever end the wait: the client is closed, the program ends, the thread is in the
                process that this one was forked from, or it is the one that asks.
        """
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the client is closed")
                future, finished = self._scheduled(work)
        except BaseException:
            work.close()
            raise
        return self._outcome(future, finished)

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of a generator, one at a time; it is closed with this one."""
        end = object()

        async def following() -> T | object:
            return await anext(items, end)

        try:
            while (item := self.run(following())) is not end:
                yield item  # type: ignore[misc] # the end is none of them
        finally:
            self._end(items)

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel what other threads wait for, let `last` close the rest, and end the thread; once more does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._begun is None or self._lost():
                return
            loop, thread = self._begun
            ending = self._scheduled(_end_all(last))
        try:
            self._outcome(*ending)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def _scheduled(self, work: Coroutine[Any, Any, T]) -> tuple[Future[T], threading.Event]:
        """Begin a coroutine, and the thread if there is none; the lock is held, so that none comes after the last."""
        if self._begun is None:
            loop = asyncio.new_event_loop()
            # A daemon: a client that nobody closed does not hold up the end of the program.
            thread = threading.Thread(target=loop.run_forever, name="latent-pmrf client", daemon=True)
            thread.start()
            self._begun, self._owner = (loop, thread), os.getpid()
        if self._lost():
            raise RuntimeError("the client's thread is gone with a fork or the end of the program; make another client")
        loop, thread = self._begun
        if threading.current_thread() is thread:
            raise RuntimeError("the client is asked from its own event loop, which cannot wait for itself")
        finished = threading.Event()

        async def told() -> T:
            try:
                return await work
            finally:
                finished.set()

        return asyncio.run_coroutine_threadsafe(told(), loop), finished

    def _outcome(self, future: Future[T], finished: threading.Event) -> T:
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise RuntimeError("the client is closed") from None
            raise
        except BaseException:
            if future.cancel():  # interrupted: what was begun is over before anything else is asked
                finished.wait(_CANCEL_S)
            raise

    def _lost(self) -> bool:
        """Whether the thread does not run any more: it is not forked with a process, and stops before its end."""
        return self._owner != os.getpid() or sys.is_finalizing()

    def _end(self, items: AsyncGenerator[Any, None]) -> None:
        """Close a generator of the loop."""
        if self._begun is None or self._lost():
            return
        if threading.current_thread() is self._begun[1]:  # collected there; nobody may wait for himself
            asyncio.run_coroutine_threadsafe(_closing(items), self._begun[0])
            return
        with self._lock:
            if self._closed:  # and the generator with it
                return
            ending = self._scheduled(_closing(items))
        self._outcome(*ending)


async def _closing(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


async def _end_all(last: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Cancel what other threads wait for: they are told."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await last()


ClientT = TypeVar("ClientT", bound=AsyncRestorationClient)


class _BlockingClient(Generic[ClientT]):
    """What `AsyncRestorationClient` tells, call by call. May be used by several threads. A context manager.

    Every call raises `RuntimeError` once the client is closed, and in a process that was forked after the first call.
    """

    def __init__(self, make: Callable[[], ClientT]) -> None:
        self._client = make()
        self._thread = _LoopThread()

    def __enter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    def __exit__(self, *_ended: object) -> None:
        """Let go of the connections."""
        self.close()

    def close(self) -> None:
        """Let go of the connections and the thread; once more does nothing."""
        self._thread.close(self._client.close)

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
