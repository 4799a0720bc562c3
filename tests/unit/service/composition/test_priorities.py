import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.composition.priorities import stand_back


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a niceness of each thread")
def test_a_thread_that_computes_lets_others_go_first_and_nobody_else():
    before = niceness()
    with ThreadPoolExecutor(1, initializer=stand_back) as pool:
        assert pool.submit(niceness).result() == min(19, before + 5)
    assert niceness() == before
