"""Which calls are made next, and which faces are in them.

    slots -> calls to begin now: (phase, faces), ...

A network call costs something for itself and something for each row. So a call should be full, and a call of the other
networks, which holds up every face that steps, should be worth it. Time is counted in steps, never in seconds: the same
faces in the same order give the same calls on every machine. The rules:

* Lanes. While both wait, a fifth of the rows is for batch faces, on average over the calls; the others are interactive,
  or empty: a short call serves the interactive faces sooner. Batch faces alone have all rows.
* Fewest steps left first. Of one lane, the face that will be gone soonest goes first, and of equal ones the oldest. So
  requests of equal length are served in order, and short ones do not queue behind long ones.
* Patience. A face that `PATIENCE` steps have passed over goes before all others of its lane. So every face steps at
  least once in `PATIENCE` calls and as many as it takes to serve its lane once: no length of requests starves another.
* Parking. A face left out keeps its state and loses nothing but time; it needs no rows while it waits.
* Entering is for those who will step. A face enters when it would have a row in the steps that follow; before that, the
  call would cost the others time and bring it nothing.
* Company. When more faces step than half of the rows, entering and leaving wait until those who wait have waited,
  together, a quarter of a step for each face beyond that half and each network that they call.
* Sizes. Where a bundle allows certain batch sizes only, a call takes the next smaller size if the larger one would be
  filled with padding by more than half of the difference. A call of both lanes is filled with batch faces instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from service.core.manifest import NetworkSpec
from service.sampling.phases import Phase
from service.sampling.slots import Slot

PATIENCE = 16
ROWS_PER_BATCH_ROW = 5  # as the queue, which hands out every fifth face of the batch lane
_STEPS_PER_CALL = 0.25  # how long company is waited for; docs/EXPERIMENTS.md has other values

Call = tuple[Phase, list[Slot]]


@dataclass(frozen=True, slots=True)
class CallShape:
    """How a phase is called.

    Attributes:
        rows: Most faces of one call.
        sizes: Allowed batch sizes, ascending, or None for any.
        networks: Network calls that it makes.
    """

    rows: int
    sizes: tuple[int, ...] | None
    networks: int

    @classmethod
    def of(cls, networks: Sequence[NetworkSpec], slots: int) -> CallShape:
        """Of the networks that a phase calls one after another; more rows than slots are never needed."""
        rows = min([slots, *(network.max_batch_size for network in networks)])
        return cls(rows, networks[0].batch_sizes if networks else None, len(networks))

    def rows_for(self, ready: int) -> int:
        """How many of `ready` faces one call takes."""
        most = min(ready, self.rows)
        if self.sizes is None or most < self.sizes[0]:
            return most
        smaller = max(size for size in self.sizes if size <= most)
        return most if 2 * (most - smaller) >= self.size_of(most) - smaller else smaller

    def size_of(self, rows: int) -> int:
        """Rows of the call that takes `rows` faces, padding included."""
        return rows if self.sizes is None else min(size for size in self.sizes if size >= rows)


class Schedule:
    """Decides for one sampler.

    Args:
        shapes: How each phase is called.
        concurrent: Calls of different phases run side by side. Otherwise there is one at a time: one that were begun
            earlier would have to wait all the same, and whoever becomes ready meanwhile could not join it.
    """

    def __init__(self, shapes: Mapping[Phase, CallShape], *, concurrent: bool) -> None:
        self._shapes = shapes
        self._concurrent = concurrent
        self._turns = [Phase.LEAVE, Phase.ENTER, Phase.ADVANCE]  # least recently called first
        self._owed = dict.fromkeys(Phase, 0)  # fifths of rows that the batch lane has not had yet of its share

    def begin(self, slots: Sequence[Slot], under_way: Collection[Phase]) -> list[Call]:
        """The calls to begin now; their faces become busy.

        If any face could be in a call, and none is under way, there is at least one.

        Args:
            slots: All slots in the order of admission.
            under_way: Phases whose call has not ended; a phase has one call at a time.
        """
        stepping = [slot for slot in slots if slot.phase is Phase.ADVANCE]
        calls: list[Call] = []
        for phase in self._turns:
            if phase in under_way:
                continue
            if not self._concurrent and (under_way or calls):
                break
            chosen = self._choose(phase, [slot for slot in slots if not slot.busy and slot.phase is phase], stepping)
            if chosen:
                calls.append((phase, chosen))
        for phase, chosen in calls:
            self._turns.remove(phase)
            self._turns.append(phase)
            for slot in chosen:
                slot.busy, slot.passed_over = True, 0
        if any(phase is Phase.ADVANCE for phase, _ in calls):
            for slot in slots:
                slot.passed_over += not slot.busy
        return calls

    def _choose(self, phase: Phase, ready: Sequence[Slot], stepping: Sequence[Slot]) -> list[Slot]:
        """The faces of the phase's next call; none when there should be none yet."""
        if phase is Phase.ENTER and not self._would_step(ready, stepping):
            return []
        if phase is not Phase.ADVANCE and not self._is_worth_a_call(phase, ready, stepping):
            return []
        interactive, batch = _ranked(ready, is_batch=False), _ranked(ready, is_batch=True)
        if interactive and batch:
            return self._shared(phase, interactive, batch)
        return [*interactive, *batch][: self._shapes[phase].rows_for(len(ready))]

    def _shared(self, phase: Phase, interactive: Sequence[Slot], batch: Sequence[Slot]) -> list[Slot]:
        """The first of both lanes, each in its share of the rows."""
        shape = self._shapes[phase]
        self._owed[phase] = min(self._owed[phase], ROWS_PER_BATCH_ROW) + shape.rows
        batch_rows = min(self._owed[phase] // ROWS_PER_BATCH_ROW, len(batch))
        self._owed[phase] -= batch_rows * ROWS_PER_BATCH_ROW
        chosen = interactive[: shape.rows - batch_rows]
        size = min(shape.rows, shape.size_of(len(chosen) + batch_rows))
        return [*chosen, *batch[: size - len(chosen)]]

    def _would_step(self, ready: Sequence[Slot], stepping: Sequence[Slot]) -> bool:
        """Whether any of those who wait to enter would have a row if each lane had its share now."""
        following = [*(slot for slot in stepping if slot.steps_left > 1), *ready]  # the others leave while these enter
        interactive, batch = _ranked(following, is_batch=False), _ranked(following, is_batch=True)
        rows = self._shapes[Phase.ADVANCE].rows
        batch_rows = math.ceil(rows / ROWS_PER_BATCH_ROW) if interactive else rows
        return any(slot.phase is Phase.ENTER for slot in (*interactive[:rows], *batch[:batch_rows]))

    def _is_worth_a_call(self, phase: Phase, ready: Sequence[Slot], stepping: Sequence[Slot]) -> bool:
        only_batch = all(slot.is_batch for slot in ready)
        held_up = sum(only_batch or not slot.is_batch for slot in stepping)
        free = self._shapes[Phase.ADVANCE].rows / 2
        waited = sum(1 + slot.passed_over for slot in ready)
        worth = waited >= _STEPS_PER_CALL * self._shapes[phase].networks * (held_up - free)
        return worth or any(_is_overdue(slot) for slot in ready)


def _ranked(slots: Sequence[Slot], *, is_batch: bool) -> list[Slot]:
    """Those of one lane, by whose turn it is."""
    lane = [slot for slot in slots if slot.is_batch is is_batch]
    return sorted(lane, key=lambda slot: (-slot.passed_over if _is_overdue(slot) else 0, slot.steps_left))


def _is_overdue(slot: Slot) -> bool:
    return slot.passed_over >= PATIENCE
