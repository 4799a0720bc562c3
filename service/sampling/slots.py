"""A slot: where one face is on its way, and what has passed it by."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.errors import ServiceError
from service.core.types import FaceJob, Lane
from service.sampling.phases import FlowFace, Phase


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one face. While no call works on it the face is parked: all there is to it is this object.

    Attributes:
        job: What was asked for.
        admitted_s: When, on the performance counter.
        flow: Where the face is, or None before it has entered.
        busy: A call is working on it.
        unwanted: Why nobody waits for it any more, or None.
        passed_over: Steps of others that began while it could have been in a call and was not.
    """

    job: FaceJob
    admitted_s: float
    flow: FlowFace | None = None
    busy: bool = False
    unwanted: ServiceError | None = None
    passed_over: int = 0

    @property
    def phase(self) -> Phase:
        """The call it needs next, or is in."""
        if self.flow is None:
            return Phase.ENTER
        return Phase.LEAVE if self.flow.arrived else Phase.ADVANCE

    @property
    def steps_done(self) -> int:
        """Euler steps taken."""
        return 0 if self.flow is None else self.flow.steps_done

    @property
    def steps_left(self) -> int:
        """Euler steps to take."""
        return self.job.num_steps - self.steps_done

    @property
    def is_batch(self) -> bool:
        """Whether it came by the batch lane."""
        return self.job.lane is Lane.BATCH
