"""Many small jobs while gateways and workers are killed at random: each ends once, with its own photo.

The environment variable STORM_JOBS says how many; a storm of 2000 takes a minute or two on two free cores.
"""

import contextlib
import itertools
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.fleet import check_result, until_ready
from tests.numbered_photos import numbered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

JOBS = int(os.environ.get("STORM_JOBS", "300"))
CLIENTS = 16
PAUSE_S = 0.2
REPEATED_EVERY = 20
PATIENCE_S = 600.0
KINDS = ("gateway", "gateway", "worker", "worker")
SETTINGS = {"job_photos": 16, "max_concurrent_photos": 32, "max_queued_photos": 256, "slots": 8, "cpu_workers": 1}


class Storm:
    """Processes that are killed and replaced, one after the other, until the block ends."""

    def __init__(self, fleet, seed):
        self._fleet = fleet
        self._random = random.Random(seed)
        self._services = fleet.start(*KINDS, **SETTINGS)
        until_ready(*self._services)
        self._over = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self.killed = Counter()

    def __enter__(self):
        self._blowing = self._thread.submit(self._blow)
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.shutdown()
        self._blowing.result()

    def gateway_url(self):
        """The address of a gateway that was alive a moment ago."""
        return self._random.choice([str(service.client.base_url) for service in self._services[:2]])

    def _blow(self):
        for kind in itertools.cycle(["worker", "gateway"]):
            if self._over.wait(self._random.uniform(0.3, 2.0)):
                return
            index = self._random.choice([index for index, other in enumerate(KINDS) if other == kind])
            self._services[index].kill()
            self.killed[kind] += 1
            (self._services[index],) = self._fleet.start(kind, **SETTINGS)


class Client:
    """One that wants an answer: it asks again, with the same key, at any gateway, until it has one."""

    def __init__(self, storm):
        self._storm = storm
        self._http = httpx.Client(timeout=60)
        self.repetitions = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._http.close()

    def restore(self, number):
        """Where a numbered photo's job is, once it has ended."""
        headers = {"Idempotency-Key": f"photo {number}", "Prefer": "wait=30"}
        form = {"files": {"image": numbered(number)}, "data": {"aligned": "true", "num_steps": str(1 + number % 2)}}
        seen = set()
        answer = None
        while answer is None or answer.status_code == httpx.codes.ACCEPTED:
            answer = self._insist(lambda url: self._http.post(f"{url}/v1/restorations", headers=headers, **form))
            seen.add(answer.headers["location"])
        assert answer.json()["status"] == "succeeded", answer.text
        (where,) = seen
        return where

    def fetch(self, where):
        """The image of a job that has ended."""
        return self._insist(lambda url: self._http.get(f"{url}{where}/result"))

    def _insist(self, ask):
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            try:
                answer = ask(self._storm.gateway_url())
            except httpx.TransportError:
                pass
            else:
                if answer.status_code not in (429, 503):
                    return answer
            self.repetitions += 1
            time.sleep(PAUSE_S)
        raise TimeoutError("no gateway answered")


def test_every_job_ends_once_with_its_own_photo(fleet):
    with contextlib.ExitStack() as stack:
        with Storm(fleet, seed=5) as storm, ThreadPoolExecutor(CLIENTS) as crowd:
            clients = [stack.enter_context(Client(storm)) for _ in range(CLIENTS)]

            def work(index):
                results = {}
                for number in range(index, JOBS, CLIENTS):
                    where = clients[index].restore(number)
                    answer = clients[index].fetch(where)
                    check_result(answer, number)
                    results[number] = where, answer.content
                return results

            results = {number: found for part in crowd.map(work, range(CLIENTS)) for number, found in part.items()}
        assert len(results) == JOBS
        assert len({where for where, _ in results.values()}) == JOBS
        for where, data in results.values():
            assert clients[0].fetch(where).content == data
        for number in range(0, JOBS, REPEATED_EVERY):
            assert clients[0].restore(number) == results[number][0]
        repetitions = sum(client.repetitions for client in clients)
    print(f"{len(results)} jobs, killed {dict(storm.killed)}, {repetitions} repetitions")  # noqa: T201 - shown with -s
    assert set(storm.killed) == set(KINDS)
