"""Upload -> DecodedImage, each in a process of its own, so that a file made to harm meets nothing but that process.

    decode ─► a child that waits ─► its answer ─► DecodedImage
                 ▲                     │ or its end, by a signal or by a limit
                 └──── the next one ◄──┘

A child sees one photo. What it does to its memory, it does to its own; a photo that ends its process is refused, and
nobody else's photo notices.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import signal
from typing import Self

import numpy as np

from service.core.errors import DECODERS_KILLED, CorruptImage, DependencyUnavailable, InputError, ServiceError, defect
from service.core.metrics import Metrics
from service.core.types import DecodedImage, Upload
from service.decoders.nursery import TEMPLATE, Child, Nursery
from service.decoders.wire import Ended, Garbled, Kind, Told, TooLate
from service.stages.containers.png_writer import write_png
from service.stages.decode import DecodeLimits, check_size

_ATTEMPTS = 2  # a child may be ended by chance, and the photo be without fault
# Seconds by the clock: a busy machine is no reason to refuse a photo, and what only waits is rare.
_PATIENCE_S = 30.0
_PATIENCE_PER_CPU_S = 4.0

_START_S = 60.0
_DOT = np.zeros((1, 1, 1), np.uint8)
_REHEARSED_LIMITS = DecodeLimits(max_upload_bytes=1024, max_image_px=1, min_side_px=1)
_HINT = "open the photo in an editor and save it anew, as a baseline JPEG or a PNG"

logger = logging.getLogger(__name__)


class _Lost(Exception):
    """A child that gave no answer.

    Attributes:
        outcome: What is counted.
        reason: Why, for the caller and the log.
        by_chance: Whether the photo may be without fault.
    """

    def __init__(self, outcome: str, reason: str, *, by_chance: bool = False) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.by_chance = by_chance


class DecoderPool:
    """Processes that wait for photos, some at once; a context manager that ends them.

    Safe to use from several threads. Who comes while all are busy waits for the first that is not.

    Args:
        children: Processes that decode at once.
        cpu_s: Seconds of computing that a photo may take.
        metrics: Told how each child ended.
        patience_s: Seconds that a photo may take by the clock; None: several times `cpu_s`.
        template: The module that the children are copies of.
    """

    def __init__(
        self,
        children: int,
        cpu_s: float,
        metrics: Metrics,
        *,
        patience_s: float | None = None,
        template: str = TEMPLATE,
    ) -> None:
        whole_s = math.ceil(cpu_s)
        self._patience_s = _PATIENCE_S + _PATIENCE_PER_CPU_S * whole_s if patience_s is None else patience_s
        self._cpu_s = whole_s
        self._metrics = metrics
        self._nursery = Nursery(whole_s, template)
        self._waiting: queue.SimpleQueue[Child | None] = queue.SimpleQueue()
        for _ in range(children):
            self._waiting.put(None)

    def __enter__(self) -> Self:
        """Order the first children, which come to be while others start, too.

        Raises:
            DependencyUnavailable: No process can be started.
        """
        for _ in range(self._waiting.qsize()):
            child = self._nursery.bear()
            self._waiting.get()
            self._waiting.put(child)
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; a photo under way is lost."""
        self._nursery.close()
        while not self._waiting.empty():
            child = self._waiting.get()
            if child is not None:
                with child:
                    pass

    @property
    def template_pid(self) -> int | None:
        """The process that all children are copies of, where there is one."""
        return self._nursery.pid

    def rehearse(self) -> None:
        """Wait until a child has decoded something; it is not counted.

        Raises:
            DependencyUnavailable: No child could.
        """
        try:
            with self._nursery.bear() as child:
                child.decode(Upload(write_png(_DOT, None, None)), _REHEARSED_LIMITS, _START_S)
        except (ServiceError, Ended, Garbled, TooLate, Told) as error:
            raise DependencyUnavailable(
                f"no process that decodes photos can be started ({error!r}); with decoder_children 0, threads decode"
            ) from error

    def decode(self, upload: Upload, limits: DecodeLimits) -> DecodedImage:
        """Decode one photo, as `service.stages.decode.decode` does.

        Raises:
            InputError: As `decode` does.
            CorruptImage: Besides, a photo that ends its process, or takes more time or memory than it may.
            DependencyUnavailable: No process can be started, or each is killed by somebody else, as by the kernel when
                memory has run out.
            ServiceError: The decoder has a defect.
        """
        check_size(upload, limits)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._attempt(upload, limits, anew=attempt > 1)
            except _Lost as lost:
                logger.warning("a decoder was lost over a photo of %d bytes: %s", len(upload.data), lost.reason)
                if lost.by_chance and attempt < _ATTEMPTS:
                    continue
                if lost.outcome == "killed":
                    detail = "the processes that decoded the photo were killed; memory may be short"
                    raise DependencyUnavailable(detail, hint="try again", **{DECODERS_KILLED: attempt}) from lost
                if lost.outcome == "lost":
                    raise DependencyUnavailable("no decoder can be started", hint="try again") from lost
                raise CorruptImage(f"the file cannot be decoded: {lost.reason}", hint=_HINT) from lost
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, upload: Upload, limits: DecodeLimits, *, anew: bool) -> DecodedImage:
        waiting = self._waiting.get()
        try:
            with self._living(waiting, anew=anew) as child:
                return self._ask(child, upload, limits)
        finally:
            self._replace()

    def _living(self, waiting: Child | None, *, anew: bool) -> Child:
        """The child that waits, or another where it has waited in vain: that is no photo's doing.

        Args:
            waiting: Who waits, if anybody.
            anew: Take another in any case: where one was lost with its template, those that wait are lost, too, though
                they may not have ended yet.
        """
        if waiting is not None and not anew and not waiting.gone:
            return waiting
        if waiting is not None:
            with waiting:
                if waiting.gone:
                    self._metrics.decoder_children("lost")
        return self._nursery.bear()

    def _ask(self, child: Child, upload: Upload, limits: DecodeLimits) -> DecodedImage:
        try:
            image = child.decode(upload, limits, self._patience_s)
        except InputError:
            self._metrics.decoder_children("refused")
            raise
        except (Ended, Garbled, TooLate, Told) as error:
            lost = self._lost(child, error)
            self._metrics.decoder_children(lost.outcome)
            raise lost from error
        except BaseException:
            child.kill()
            raise
        self._metrics.decoder_children("decoded")
        return image

    def _lost(self, child: Child, error: Exception) -> _Lost:
        if isinstance(error, Told):
            if error.kind is Kind.DEFECT:
                self._metrics.decoder_children("defect")
                logger.error("a decoder failed: %s", error.text)
                raise defect()
            return _Lost("out_of_memory", "it takes more memory than a photo of its size may")
        if isinstance(error, Garbled | TooLate):
            child.kill()
            if isinstance(error, TooLate):
                return _Lost("out_of_time", f"it takes longer than {self._patience_s:g} s")
            return _Lost("garbled", str(error))
        status = child.end()
        if status is None:
            return _Lost("lost", "the decoder could not be started, or was ended", by_chance=True)
        number = os.waitstatus_to_exitcode(status)
        if number == -signal.SIGXCPU:
            return _Lost("out_of_time", f"it takes more than {self._cpu_s} s of computing")
        if number == -signal.SIGKILL:  # none of ours: those were asked for above; and too much computing has its own
            return _Lost("killed", "the decoder was killed", by_chance=True)
        return _Lost("crashed", f"it ends the decoder ({_end_named(number)})", by_chance=True)

    def _replace(self) -> None:
        """Put the place back in any case: who finds nobody there orders a child himself."""
        child = None
        try:
            with contextlib.suppress(ServiceError):
                child = self._nursery.bear()
        finally:
            self._waiting.put(child)


def _end_named(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit status {exit_code}"
    known = {member.value: member.name for member in signal.Signals}
    return known.get(-exit_code, f"signal {-exit_code}")
