"""Handlers of calls as interceptors put them in each other's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Any]
"""Takes what the call begins with and its context; answers it."""


def behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Behaviour:
    """What a handler does, whatever its kind."""
    found: Behaviour = getattr(handler, f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}")
    return found


def streaming(
    handler: grpc.RpcMethodHandler[Any, Any], behaviour: Behaviour, deserializer: Callable[[bytes], Any] | None = None
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that answers as another does and has a stream of requests, which is the same on the wire.

    A single request would be read by the library: without a bound in time, and before anybody is asked.

    Args:
        handler: The other one.
        behaviour: What it does.
        deserializer: Of the stream's messages; None leaves them as bytes.
    """
    made: grpc.RpcMethodHandler[Any, Any] = getattr(
        grpc, f"stream_{_arity(handler.response_streaming)}_rpc_method_handler"
    )(behaviour, request_deserializer=deserializer, response_serializer=handler.response_serializer)
    return made


def _arity(is_stream: bool) -> str:
    return "stream" if is_stream else "unary"
