"""Who may come in: the keys file and what counts how much its keys are used, in memory or in Redis."""

from __future__ import annotations

from service.access.accounts import Accounts
from service.access.guard import Access
from service.access.key_file import KeyFile, UnusableKeys
from service.access.meter import Meter
from service.brokers.memory_meter import MemoryMeter
from service.brokers.redis_meter import RedisMeter
from service.composition.queues import address_checked
from service.core.settings import ENV_PREFIX, Settings, UnusableSettings


def open_access(settings: Settings) -> Access:
    """The door of this process.

    Raises:
        UnusableSettings: The keys file cannot be used, or `redis_url` is not the address of a server.
    """
    try:
        keys = None if settings.api_keys_file is None else KeyFile(settings.api_keys_file)
    except UnusableKeys as error:
        raise UnusableSettings(f"{ENV_PREFIX}API_KEYS_FILE: {error}") from error
    return Access(keys, Accounts(_open_meter(settings)))


def _open_meter(settings: Settings) -> Meter:
    if settings.redis_url is None:
        return MemoryMeter()
    with address_checked():
        return RedisMeter(settings.redis_url.get_secret_value(), prefix=settings.redis_prefix)
