"""Around every call but health's: who asks, and whether he may.

metadata -> the call | a refusal in its place

Reflection tells what there is to attack: it is guarded, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.access.caller import Caller
from service.access.guard import API_KEY, AUTHORIZATION, Access
from service.core.errors import ServiceError
from service.core.metrics import Metrics
from service.rpc.handlers import Context, streaming
from service.rpc.status import abort


class Guarding(grpc.aio.ServerInterceptor):
    """Lets callers in.

    Args:
        access: Who may come in.
        ours: Full name of the service whose errors are told by who is around this (`Answering`).
        for_everybody: Full name of the service that asks for no key.
        metrics: Told about every refusal.
    """

    def __init__(self, access: Access, ours: str, for_everybody: str, metrics: Metrics) -> None:
        self._access = access
        self._ours = f"/{ours}/"
        self._for_everybody = f"/{for_everybody}/"
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find who answers a call, unless the caller is refused."""
        handler, method = await continuation(handler_call_details), str(handler_call_details.method)
        if handler is None or method.startswith(self._for_everybody):
            return handler
        try:
            with self._metrics.refusals_counted():
                caller = caller_of(self._access, handler_call_details.invocation_metadata)
                await self._access.accounts.knock(caller)
        except ServiceError as error:
            return streaming(handler, _refusing(error, is_told=method.startswith(self._ours)))
        return handler


def caller_of(access: Access, metadata: Any) -> Caller:  # noqa: ANN401 - pairs, in a type of the library's
    """Who asks, by the metadata of his call.

    Raises:
        Unauthenticated: There is no key that is known.
    """
    found: dict[str, list[str]] = {AUTHORIZATION: [], API_KEY: []}
    for name, value in metadata or ():
        if name in found:
            found[name].append(value if isinstance(value, str) else "")
    return access.identify(found[AUTHORIZATION], found[API_KEY])


def _refusing(error: ServiceError, *, is_told: bool) -> Callable[[Any, Context], Awaitable[None]]:
    """Who answers a call in place of its own handler; `is_told` where somebody around it tells of errors."""

    async def refuse(_request: Any, context: Context) -> None:  # noqa: ANN401 - of any call
        if is_told:
            raise error
        await abort(context, error)

    return refuse
