import logging

from service.core.errors import DependencyUnavailable
from service.core.outages import OutageLog


def test_an_outage_is_told_once_and_so_is_its_end(caplog):
    outages = OutageLog(logging.getLogger("service.test"), "the queue")
    refused = DependencyUnavailable("no answer")
    refused.__cause__ = OSError("connecting to 127.0.0.1:6379")
    outages.back()
    for _ in range(3):
        outages.away(refused)
    for _ in range(3):
        outages.away(DependencyUnavailable("out of memory"))
    for _ in range(3):
        outages.back()
    outages.away(DependencyUnavailable("out of memory"))
    assert caplog.messages == [
        "the queue does not answer: no answer (connecting to 127.0.0.1:6379); this is not repeated",
        "the queue does not answer: out of memory; this is not repeated",
        "the queue answers again",
        "the queue does not answer: out of memory; this is not repeated",
    ]
