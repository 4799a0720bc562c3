"""Random histories of the schedule alone: faces come and go, calls end in any order, and nobody is forgotten."""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.types import Lane
from service.sampling.phases import FlowFace, Phase
from service.sampling.schedule import PATIENCE, ROWS_PER_BATCH_ROW, CallShape, Schedule
from service.sampling.slots import Slot
from tests.fakes import face_job

NOTHING = np.zeros(0, np.float32)
SIZES = st.sampled_from([None, (1, 2, 4, 8), (2, 8), (4, 8), (8,), (1, 3, 8)])
LONGEST_CALL = 3  # steps that may begin while a call of another phase is under way


@dataclass
class Under:
    """A call under way: its faces, and the steps that have begun since."""

    slots: list[Slot]
    age: int = 0


class History:
    """Slots as the sampler keeps them, without networks."""

    def __init__(self, num_slots, shapes, concurrent):
        self.num_slots = num_slots
        self.shapes = shapes
        self.schedule = Schedule(shapes, concurrent=concurrent)
        self.slots = []
        self.calls = {}
        self.left = []
        self.arrivals = 0

    def admit(self, lane, num_steps):
        """As the sampler does, if there is a slot for this lane."""
        interactive = sum(not slot.is_batch for slot in self.slots)
        if lane is Lane.INTERACTIVE and interactive == self.num_slots:
            return
        if lane is Lane.BATCH and len(self.slots) >= self.num_slots:
            return
        self.arrivals += 1
        self.slots.append(Slot(face_job(str(self.arrivals), num_steps=num_steps, size_px=1, lane=lane), 0.0))

    def begin(self):
        calls = self.schedule.begin(self.slots, set(self.calls))
        for phase, slots in calls:
            assert phase not in self.calls
            self.calls[phase] = Under(slots)
        if any(phase is Phase.ADVANCE for phase, _ in calls):
            for call in self.calls.values():
                call.age += 1
        return calls

    def end(self, pick):
        """End one call under way, an old one if there is one."""
        old = [phase for phase, call in self.calls.items() if call.age > LONGEST_CALL]
        phase = old[0] if old else pick(list(self.calls))
        for slot in self.calls.pop(phase).slots:
            slot.busy = False
            if phase is Phase.ENTER:
                slot.flow = FlowFace(slot.job, NOTHING, NOTHING, NOTHING, 0, {})
            elif phase is Phase.ADVANCE:
                slot.flow = replace(slot.flow, steps_done=slot.flow.steps_done + 1)
            else:
                self.slots.remove(slot)
                self.left.append(slot.job.job_id)

    def longest_wait(self, lane):
        """Steps that may pass a face over: its patience, its lane before it, and a call that is under way."""
        rows = min(shape.rows for shape in self.shapes.values())
        others = math.ceil(self.num_slots / rows)
        if lane is Lane.BATCH:
            others = math.ceil(ROWS_PER_BATCH_ROW * self.num_slots / rows) + ROWS_PER_BATCH_ROW
        else:
            others = math.ceil(self.num_slots / max(1, rows - math.ceil(rows / ROWS_PER_BATCH_ROW)))
            others += others if rows == 1 else 0
        return PATIENCE + others + LONGEST_CALL + 2


ARRIVALS = st.lists(st.tuples(st.integers(0, 50), st.sampled_from(Lane), st.integers(1, 12)), max_size=60)


@settings(max_examples=100)
@given(
    arrivals=ARRIVALS,
    num_slots=st.integers(1, 12),
    most_rows=st.sampled_from([1, 2, 8]),
    sizes=SIZES,
    concurrent=st.booleans(),
    order=st.integers(0, 10**6),
)
def test_every_face_gets_through_and_waits_a_bounded_number_of_steps(
    arrivals, num_slots, most_rows, sizes, concurrent, order
):
    rows = min(num_slots, most_rows)
    allowed = sizes if most_rows == 8 else None
    shapes = {phase: CallShape(rows, allowed, networks) for phase, networks in zip(Phase, (2, 1, 1), strict=True)}
    history = History(num_slots, shapes, concurrent)
    pick = random.Random(order).choice
    turn = 0
    while turn <= 50 or history.slots:
        for at, lane, num_steps in arrivals:
            if at == turn:
                history.admit(lane, num_steps)
        for phase, chosen in history.begin():
            assert 1 <= len(chosen) <= rows
            assert len(set(chosen)) == len(chosen)
            assert all(slot.phase is phase and slot.busy for slot in chosen)
        assert concurrent or len(history.calls) <= 1
        assert history.calls or not history.slots
        for slot in history.slots:
            assert slot.passed_over <= history.longest_wait(slot.job.lane)
        if history.calls:
            history.end(pick)
        turn += 1
    assert sorted(history.left, key=int) == [str(number + 1) for number in range(history.arrivals)]
