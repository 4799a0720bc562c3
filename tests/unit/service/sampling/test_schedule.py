from dataclasses import replace

import numpy as np
import pytest

from service.core.types import Lane
from service.sampling.phases import FlowFace, Phase
from service.sampling.schedule import PATIENCE, CallShape, Schedule
from service.sampling.slots import Slot
from tests.bundle import tiny_manifest
from tests.fakes import face_job

NOTHING = np.zeros(0, np.float32)
BATCH, INTERACTIVE = Lane.BATCH, Lane.INTERACTIVE


def waiting(name, num_steps=10, lane=INTERACTIVE, passed_over=0):
    """A face that has been admitted."""
    return Slot(face_job(name, num_steps=num_steps, size_px=1, lane=lane), 0.0, passed_over=passed_over)


def stepping(name, left=5, lane=INTERACTIVE, passed_over=0):
    """A face that has so many of its steps left; none is one that wants to leave."""
    slot = waiting(name, max(left, 1) + 1, lane, passed_over)
    slot.flow = FlowFace(slot.job, NOTHING, NOTHING, NOTHING, slot.job.num_steps - left, {})
    return slot


def many(make, count, **fields):
    return [make(f"{fields.get('lane', INTERACTIVE)} {index}", **fields) for index in range(count)]


def schedule(rows=4, sizes=None, *, concurrent=False):
    shapes = {
        Phase.ENTER: CallShape(rows, sizes, 2),
        Phase.ADVANCE: CallShape(rows, sizes, 1),
        Phase.LEAVE: CallShape(rows, sizes, 1),
    }
    return Schedule(shapes, concurrent=concurrent)


def begun(slots, rows=4, sizes=None):
    """What the first call of these faces is: its phase and the names in it."""
    ((phase, chosen),) = schedule(rows, sizes).begin(slots, ())
    return phase, [slot.job.job_id for slot in chosen]


def in_step(slots, rows=4, sizes=None):
    phase, names = begun(slots, rows, sizes)
    assert phase is Phase.ADVANCE
    return names


def free(slots):
    """The call has ended."""
    for slot in slots:
        slot.busy = False


def test_the_face_with_the_fewest_steps_left_goes_first_and_of_equal_ones_the_oldest():
    faces = [stepping("long", 9), stepping("old", 4), stepping("young", 4), stepping("short", 2)]
    assert in_step(faces, rows=3) == ["short", "old", "young"]


def test_a_face_that_was_passed_over_too_often_goes_before_all_others():
    faces = [stepping("short", 1), stepping("patient", 8, passed_over=PATIENCE - 1)]
    assert in_step(faces, rows=1) == ["short"]
    free(faces)
    assert in_step(faces, rows=1) == ["patient"]
    assert [face.passed_over for face in faces] == [1, 0]


def test_only_steps_of_others_count_as_being_passed_over():
    left_out, leaving = stepping("left out", 9), stepping("leaving", 0)
    turns = schedule(rows=1)
    assert turns.begin([leaving, left_out], ())[0][0] is Phase.LEAVE
    assert left_out.passed_over == 0
    turns.begin([stepping("short", 2), left_out], ())
    assert left_out.passed_over == 1


def test_beside_interactive_faces_batch_faces_have_a_fifth_of_the_rows():
    faces = [*many(stepping, 12, lane=BATCH, left=1), *many(stepping, 12, left=9)]
    names = in_step(faces, rows=10)
    assert len(names) == 10
    assert sum(name.startswith("batch") for name in names) == 2


def test_rows_that_no_interactive_face_needs_stay_empty_beside_one():
    faces = [*many(stepping, 12, lane=BATCH), stepping("interactive")]
    assert len(in_step(faces, rows=10)) == 3


def test_batch_faces_alone_have_all_rows():
    assert len(in_step(many(stepping, 12, lane=BATCH), rows=10)) == 10


@pytest.mark.parametrize(("rows", "expected"), [(1, 4), (2, 8), (4, 16), (16, 64)])
def test_however_few_rows_there_are_the_share_is_a_fifth(rows, expected):
    turns = schedule(rows)
    faces = [*many(stepping, 20, lane=BATCH, left=50), *many(stepping, 20, left=50)]
    batch_rows = 0
    for _ in range(20):
        ((_, chosen),) = turns.begin(faces, ())
        assert len(chosen) == rows
        batch_rows += sum(slot.is_batch for slot in chosen)
        free(faces)
    assert batch_rows == expected


@pytest.mark.parametrize(
    ("sizes", "ready", "taken"),
    [
        (None, 3, 3),
        (None, 20, 16),
        ((4, 8, 16), 1, 1),
        ((4, 8, 16), 5, 4),
        ((4, 8, 16), 6, 6),
        ((4, 8, 16), 8, 8),
        ((4, 8, 16), 11, 8),
        ((4, 8, 16), 12, 12),
        ((4, 8, 16), 40, 16),
    ],
)
def test_a_call_takes_what_does_not_waste_its_padding(sizes, ready, taken):
    assert len(in_step(many(stepping, ready), rows=16, sizes=sizes)) == taken


def test_no_call_has_more_rows_than_slots_or_than_any_of_its_networks_takes():
    spec = tiny_manifest().networks["estimator"]
    small = spec.model_copy(update={"max_batch_size": 2})
    assert CallShape.of([spec, small], slots=9) == CallShape(2, None, 2)
    assert CallShape.of([spec], slots=3) == CallShape(3, None, 1)
    assert CallShape.of([], slots=7) == CallShape(7, None, 0)


def test_a_padded_call_of_both_lanes_is_filled_with_batch_faces():
    faces = [*many(stepping, 9, lane=BATCH), *many(stepping, 2)]
    names = in_step(faces, rows=10, sizes=(1, 8, 10))
    assert (len(names), names[:2]) == (8, ["interactive 0", "interactive 1"])


def test_the_batch_lane_is_in_calls_of_any_allowed_size():
    turns = schedule(rows=8, sizes=(1, 8))
    faces = [stepping("interactive", 50), *many(stepping, 3, lane=BATCH, left=50)]
    served = set()
    for _ in range(5):
        ((_, chosen),) = turns.begin(faces, ())
        served |= {slot.job.job_id for slot in chosen}
        free(faces)
    assert served == {slot.job.job_id for slot in faces}


def test_a_face_enters_when_it_will_have_a_row_and_not_before():
    crowd = many(stepping, 4, left=5)
    assert begun([*crowd, waiting("long", 9)])[0] is Phase.ADVANCE
    free(crowd)
    assert begun([*crowd[1:], stepping("last step", 1), waiting("long", 9, passed_over=9)])[0] is Phase.ENTER


def test_a_face_that_wants_fewer_steps_enters_although_the_rows_are_taken():
    assert begun([*many(stepping, 4, left=5), waiting("short", 2, passed_over=4)]) == (Phase.ENTER, ["short"])


def test_an_interactive_face_enters_at_once_whatever_batch_faces_do():
    faces = [*many(stepping, 4, lane=BATCH, left=1), *many(waiting, 2, lane=BATCH, num_steps=1), waiting("now", 99)]
    phase, names = begun(faces)
    assert phase is Phase.ENTER
    assert "now" in names


def test_entering_waits_for_company_while_more_than_half_of_the_rows_step():
    few, crowd = many(stepping, 8), many(stepping, 14)
    assert begun([*few, waiting("new")], rows=16)[0] is Phase.ENTER
    assert begun([*crowd, waiting("new", passed_over=1)], rows=16)[0] is Phase.ADVANCE
    free(crowd)
    assert begun([*crowd, waiting("new", passed_over=2)], rows=16)[0] is Phase.ENTER
    free(crowd)
    assert begun([*crowd, *many(waiting, 3)], rows=16)[0] is Phase.ENTER


def test_leaving_waits_half_as_long_because_it_is_one_call_and_not_two():
    crowd = many(stepping, 14)
    assert begun([*crowd, stepping("done", 0)], rows=16)[0] is Phase.ADVANCE
    free(crowd)
    assert begun([*crowd, *many(stepping, 2, left=0)], rows=16)[0] is Phase.LEAVE


def test_nobody_waits_for_company_longer_than_patience():
    crowd = many(stepping, 60)
    assert begun([*crowd, waiting("new", 2, passed_over=PATIENCE)], rows=16)[0] is Phase.ENTER


def test_phases_take_turns_where_calls_are_made_one_at_a_time():
    turns = schedule(rows=8)
    faces = [waiting("enters"), stepping("steps"), stepping("leaves", 0)]
    phases = []
    for _ in range(6):
        ((phase, _),) = turns.begin(faces, ())
        assert turns.begin(faces, {phase}) == []
        phases.append(phase)
        free(faces)
    assert phases == [Phase.LEAVE, Phase.ENTER, Phase.ADVANCE] * 2


def test_phases_run_side_by_side_where_calls_do():
    turns = schedule(rows=8, concurrent=True)
    faces = [waiting("enters"), stepping("steps"), stepping("leaves", 0)]
    assert {phase for phase, _ in turns.begin(faces, ())} == set(Phase)
    late = [*many(stepping, 2), waiting("late")]
    assert [phase for phase, _ in turns.begin([*faces, *late], {Phase.ENTER, Phase.LEAVE})] == [Phase.ADVANCE]


def test_a_face_is_in_one_call_at_a_time():
    turns = schedule(rows=8, concurrent=True)
    first, second = stepping("first"), stepping("second")
    turns.begin([first], ())
    ((_, chosen),) = turns.begin([first, second], ())
    assert chosen == [second]


def test_a_parked_face_keeps_its_state():
    parked = stepping("parked", 7)
    before = replace(parked.flow)
    in_step([parked, *many(stepping, 4, left=2)])
    assert (parked.busy, parked.flow) == (False, before)
