import asyncio

import pytest

from service.bench import virtual_time
from service.core.arriving import arriving
from service.core.errors import DeadlineExceeded


def taken_s(rate_bytes_s, size_bytes, *, longest_s=120.0):
    """Seconds until a photo that comes at this rate has arrived, or was given up, and whether it was."""

    async def arrive():
        begin_s, count_bytes = asyncio.get_running_loop().time(), 0
        try:
            async with arriving(longest_s) as come:
                while count_bytes < size_bytes:
                    await asyncio.sleep(1)
                    count_bytes += rate_bytes_s
                    come(count_bytes)
        except DeadlineExceeded:
            return asyncio.get_running_loop().time() - begin_s, True
        return asyncio.get_running_loop().time() - begin_s, False

    return virtual_time.run(arrive())


@pytest.mark.parametrize(
    ("rate_bytes_s", "size_bytes", "end"),
    [
        (0, 1, (20.0, True)),
        (4096, 100 * 4096, (100.0, False)),
        (4096, 200 * 4096, (120.0, True)),
        (2048, 100 * 4096, (39.0, True)),
        (1 << 20, 31 << 20, (31.0, False)),
    ],
)
def test_a_photo_has_twenty_seconds_and_then_the_least_rate(rate_bytes_s, size_bytes, end):
    assert taken_s(rate_bytes_s, size_bytes) == end


async def test_a_time_out_of_somebody_else_is_his():
    with pytest.raises(TimeoutError, match="the system's"):
        async with arriving(120.0):
            raise TimeoutError("the system's")
