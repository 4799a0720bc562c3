import numpy as np
import pytest

from service.bench.wire import Load, measure
from service.client import AsyncGrpcClient, AsyncHttpClient, RestorationError
from tests.pictures import encoded
from tests.processes import service_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_every_way_restores_every_photo_of_every_round(arithmetic_bundle, tmp_path):
    with service_process(arithmetic_bundle, tmp_path / "log", grpc_port=-1) as service:
        photo = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        async with AsyncHttpClient(str(service.client.base_url)) as http, AsyncGrpcClient(service.rpc_address) as grpc:
            ways = await measure(http, grpc, Load(photo, 3, 2, {"aligned": True, "num_steps": 1}), rounds=2)
            with pytest.raises(RestorationError):
                await measure(http, grpc, Load(b"no photo", 3, 2, {}), rounds=2)
        assert service.counted("restore_photos_total") >= 3 * 3 * 3
    assert list(ways) == ["gRPC, one stream", "gRPC, single calls", "HTTP, single requests"]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in ways.values())
