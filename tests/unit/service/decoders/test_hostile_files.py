"""Five hundred hostile files through the decoders' processes and the encoder; `make fuzz` has the thousands."""

from functools import partial

import psutil

from service.core.metrics import Metrics
from service.decoders.pool import DecoderPool
from tests.fuzz import BAD_OUTCOMES, Tally, decode_and_encode, run, shared_memory
from tests.hostile_files import corpus, hostile_file
from tests.processes import until

CASES = range(1_000_000, 1_000_500)


def test_hostile_files_give_photos_or_errors_of_the_photo_and_leave_nothing_behind():
    mine, tally, metrics = psutil.Process(), Tally(), Metrics()
    descriptors, segments, children = mine.num_fds(), shared_memory(), len(mine.children())
    with DecoderPool(2, 20.0, metrics) as pool:
        run(tally, partial(decode_and_encode, pool), CASES, mine)
        template = psutil.Process(pool.template_pid)
        until(lambda: len(template.children()) == 2)
    assert tally.failures == {}
    assert tally.outcomes.total() == len(CASES)
    counted = metrics.registry.get_sample_value
    assert {
        outcome: counted("restore_decoder_children_total", {"outcome": outcome}) for outcome in BAD_OUTCOMES
    } == dict.fromkeys(BAD_OUTCOMES, 0.0)
    assert mine.num_fds() == descriptors
    assert len(mine.children()) == children
    assert shared_memory() == segments


def test_the_files_are_hostile_enough_and_not_too_much_so():
    outcomes = Tally().outcomes
    with DecoderPool(2, 20.0, Metrics()) as pool:
        for data in corpus():
            outcomes[decode_and_encode(pool, 0, data)] += 1
    assert outcomes == {"photo": len(corpus()) - 2, "animated_image": 2}
    assert len({hostile_file(number) for number in range(100)}) > 90
    assert hostile_file(7) == hostile_file(7)
