"""Every name that the service uses in Redis, and nothing else.

All keys of a deployment share one hash tag, so that a cluster keeps them in one slot and a script may use them
together. The scripts get them as `KEYS`, in the order of `QueueKeys.for_scripts`; `scripts/lanes.lua` gives them names
again.

    {latent-pmrf}:faces:job:<id>           what is known of a job; no time to live until it has ended
    {latent-pmrf}:faces:payload:<id>:<i>   what a worker needs for item i; with a time to live

Where bundles may meet, the name of the bundle stands behind the prefix of the deployment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from service.core.types import Lane


def prefix_for_bundle(prefix: str, tag: str) -> str:
    """Prefix of the keys that belong to one bundle (`service.core.manifest.Manifest.tag`) of a deployment."""
    return f"{prefix}:{tag}"


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """Names of one queue.

    Attributes:
        prefix: Deployment; it should hold a hash tag in braces.
        queue: `faces` or `photos`.
    """

    prefix: str
    queue: str

    @property
    def state(self) -> str:
        """Hash: items waiting per lane, whose turn it is, how fast items leave, results' usual bytes, when it began."""
        return self._name("state")

    @property
    def swept(self) -> str:
        """Exists for a while after somebody has looked for leases that ran out."""
        return self._name("swept")

    @property
    def dead(self) -> str:
        """Stream of what was given up, with the reasons."""
        return self._name("dead")

    @property
    def overdue(self) -> str:
        """Sorted set of jobs by the time after which nobody can be interested in them."""
        return self._name("overdue")

    @property
    def workers(self) -> str:
        """Exists while there is a taker that has said lately that it is alive."""
        return self._name("workers")

    def stream(self, lane: Lane) -> str:
        """Stream of references to items: at most one unread entry per job, the others are on lease."""
        return self._name("lane", lane.value)

    def front(self, lane: Lane) -> str:
        """List of entries of the stream that were given back; they come before the unread ones."""
        return self._name("front", lane.value)

    def order(self, lane: Lane) -> str:
        """Sorted set of the jobs that have waiting items, by the time of their admission."""
        return self._name("order", lane.value)

    def job(self, job_id: str) -> str:
        """Hash: what is known of a job."""
        return self._name("job", job_id)

    def next(self, job_id: str) -> str:
        """List of a job's items that have no entry in the stream yet."""
        return self._name("next", job_id)

    def payload(self, job_id: str, index: int | str) -> str:
        """What a taker needs for one item."""
        return self._name("payload", job_id, str(index))

    def result(self, job_id: str, index: int | str = 0) -> str:
        """What a taker made of one item."""
        return self._name("result", job_id, str(index))

    @property
    def bell(self) -> str:
        """Channel: an item waits that did not wait before."""
        return self._name("bell")

    def news(self, job_id: str) -> str:
        """Channel: something about a job has changed."""
        return self._name("news", job_id)

    def idempotency(self, digest: str) -> str:
        """Hash: which job a caller's `Idempotency-Key` stands for."""
        return self._name("idempotency", digest)

    @staticmethod
    def digest(key: str) -> str:
        """What stands for a key that a caller has chosen."""
        return hashlib.sha256(key.encode()).hexdigest()

    @property
    def outbox(self) -> str:
        """Sorted set of notices by the time they are due."""
        return self._name("outbox")

    def notice(self, notice_id: str) -> str:
        """Hash: what a notice is made of."""
        return self._name("notice", notice_id)

    def holders(self, pool: str) -> str:
        """Sorted set of owners by the bytes that they hold; pools are `photos`, `jobs` (that have ended) and `kept`."""
        return self._name("holders", pool)

    def held(self, pool: str, owner: str) -> str:
        """Sorted set of what an owner holds, by the time when it expires."""
        return self._name("held", pool, owner)

    @property
    def moved(self) -> str:
        """Channel: positions in the lanes may have changed."""
        return self._name("moved")

    @property
    def mail(self) -> str:
        """Channel: a notice has entered the outbox."""
        return self._name("mail")

    def for_scripts(self) -> list[str]:
        """What `scripts/lanes.lua` unpacks; names of a kind of which each job has one end where its id begins."""
        lanes = (Lane.INTERACTIVE, Lane.BATCH)
        return [
            *(self.state, self.swept, self.dead, self.overdue),
            *map(self.stream, lanes),
            *map(self.front, lanes),
            *map(self.order, lanes),
            *(self.job(""), self.next(""), self._name("payload", ""), self._name("result", "")),
            *(self.bell, self.news(""), self.moved, self.mail),
            *(self.idempotency(""), self.outbox, self.notice(""), self.holders(""), self._name("held", "")),
        ]

    def _name(self, *parts: str) -> str:
        return ":".join((self.prefix, self.queue, *parts))


@dataclass(frozen=True, slots=True)
class MeterKeys:
    """Names of what callers have used.

    Attributes:
        prefix: Deployment; it should hold a hash tag in braces.
    """

    prefix: str

    def rate(self, account: str) -> str:
        """When an account's requests so far would have come, had they come evenly."""
        return self._name("rate", account)

    def spent(self, account: str) -> str:
        """What an account has spent in its window; it lives as long as that."""
        return self._name("spent", account)

    def photo(self, account: str, digest: str) -> str:
        """Exists for a day after a photo that may be sent again was charged."""
        return self._name("photo", account, digest)

    def settled(self, account: str, digest: str) -> str:
        """Exists for a day after a correction."""
        return self._name("settled", account, digest)

    def _name(self, *parts: str) -> str:
        return ":".join((self.prefix, "meter", *parts))
