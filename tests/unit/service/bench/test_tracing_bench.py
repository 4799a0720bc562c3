"""What the bench of traces makes of its figures."""

import httpx

from service.bench.tables import ratios_table
from service.bench.tracing import sink


def test_ratios_are_of_the_same_round():
    spent_ms = {"off": [10.0, 20.0, 40.0], "all": [11.0, 20.0, 60.0]}
    assert ratios_table("ms", spent_ms, "off", decimals=1, of_ratios=3).splitlines()[2:] == [
        "| off | 20.0 (10.0-40.0) | 1.000 |",
        "| all | 20.0 (11.0-60.0) | 1.100 |",
    ]


def test_the_sink_takes_everything():
    with sink() as address:
        assert httpx.post(f"{address}/v1/traces", content=b"spans").status_code == 200
