"""Log records in, one line each out: JSON objects for machines, or text for people; never more than the line.

Whatever a caller may have written into a message stays inside its line: JSON escapes it, and so does the text. Values
beyond the message come by `extra={"fields": {...}}`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from service.core.errors import ServiceError
from service.core.settings import LogFormat
from service.core.tracing import TOLD, correlated, current_stage
from service.telemetry.log_writer import LogWriter
from service.telemetry.sparing import Sparing

_OURS = "service"
_REPEATED_S = 60.0
_TRACES_SHOWN = 8  # digits of a trace's id in text
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}

logger = logging.getLogger(__name__)


def write_logs(log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Let everything that this process logs be written in one form.

    Of our own modules what is worth telling once a request is written, of others' only warnings: they log addresses.
    Nobody who logs waits for a reader. What is not written yet when the process ends, `logging.shutdown` waits for:
    Python calls that, but for a process that ends by `os._exit`.

    Args:
        log_format: The form.
        stream: Where to; None for standard error.
    """
    handler = _handler(stream or sys.stderr)
    handler.addFilter(_is_news)
    handler.addFilter(Sparing(_REPEATED_S, _tells_of_no_descriptors))
    handler.setFormatter(JsonLines() if log_format is LogFormat.JSON else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_OURS).setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _log_what_ended_the_process
    threading.excepthook = _log_what_ended_a_thread


def count_dropped(on_drop: Callable[[], None]) -> None:
    """Let each line that is dropped from now on be told, where `write_logs` has been called."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogWriter):
            handler.on_drop = on_drop


def sayer(log_format: LogFormat, otherwise: Callable[[str], None]) -> Callable[[str], None]:
    """How a process tells its operator something: a record among the others, or a plain line to a person."""
    return logger.info if log_format is LogFormat.JSON else otherwise


class JsonLines(logging.Formatter):
    """One JSON object a record, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, its request, trace and stage where they are known, and its own fields."""
        told = {
            "timestamp": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_context(record),
        }
        for name, value in _fields(record).items():
            told.setdefault(name, value)
        if exception := _exception(self, record):
            told["exception"] = exception
        return json.dumps(told, default=str)


class TextLines(logging.Formatter):
    """Time, level, message and what else is known; the lines of an exception follow, set in."""

    def format(self, record: logging.LogRecord) -> str:
        """The record for people."""
        context = _context(record)
        if "trace_id" in context:
            context["trace_id"] = context["trace_id"][:_TRACES_SHOWN]
        context.pop("span_id", None)
        values = " ".join(f"{name}={value}" for name, value in {**context, **_fields(record)}.items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():8} {record.name}: {_message(record)}  {values}".translate(_CONTROL)
        exception = _exception(self, record)
        return "\n".join([line.rstrip(), *(f"    {part}".translate(_CONTROL) for part in exception.splitlines())])


def _handler(stream: TextIO) -> logging.Handler:
    """What writes to a stream: at once if it is in memory, else without anybody who waits for it."""
    try:
        descriptor = os.dup(stream.fileno())  # ours, whoever closes the stream
    except (AttributeError, OSError, ValueError):  # of memory, or there is none
        return logging.StreamHandler(stream)
    return LogWriter(descriptor, stream.encoding)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether its exception, if it has one, is not in the log yet: uvicorn is handed each that a handler has told."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or TOLD not in vars(error)


def _tells_of_no_descriptors(record: logging.LogRecord) -> bool:
    """Whether asyncio says that it could take no connection: it does so some two thousand times a second."""
    return record.name == "asyncio" and str(record.msg).startswith("socket.accept() out of system resource")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: others' records must not be lost for that
        return str(record.msg)


def _context(record: logging.LogRecord) -> dict[str, str]:
    """Request, trace, stage and code of an error."""
    known = correlated()
    error = record.exc_info[1] if record.exc_info else None
    stage = current_stage()
    if isinstance(error, ServiceError):
        known["code"] = error.code
        stage = error.stage or stage
    if stage:
        known["stage"] = stage
    return known


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found = getattr(record, "fields", None)
    return found if isinstance(found, Mapping) else {}


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _timestamp(created_s: float) -> str:
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _log_what_ended_the_process(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        logger.warning("interrupted")
    else:
        logger.critical("an unexpected error ends the process", exc_info=(kind, error, traceback))


def _log_what_ended_a_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        logger.error(
            "an unexpected error ended a thread", exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback)
        )
