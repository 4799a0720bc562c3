import dataclasses
import functools

import pytest
import torch

from export.cli import main
from export.cost import PIPELINES, cost_table, costs
from export.gpu import Roof, bfloat16_psnr_db
from export.trained import load_trained
from tests.tiny_runs import SIDE_PX, write_runs


@functools.cache
def by_network(pipeline):
    return {cost.network: cost for cost in costs(pipeline)}


def test_the_published_pipeline_costs_what_the_paper_says():
    """About 7 TFLOP a face at 25 steps, 3.2 of them in the autoencoder; 15.5, 91.0 and 151 M parameters."""
    found = by_network(PIPELINES[0])
    autoencoder = [found["vae_encoder"], found["vae_decoder"]]
    assert sum(cost.gflop for cost in autoencoder) == pytest.approx(3200, rel=0.02)
    assert sum(cost.gflop * cost.calls for cost in found.values()) == pytest.approx(7000, rel=0.1)
    assert sum(cost.parameters for cost in autoencoder) == pytest.approx(91.0e6, rel=0.01)
    assert found["estimator"].parameters == pytest.approx(15.5e6, rel=0.03)
    assert found["velocity"].parameters == pytest.approx(151e6, rel=0.03)


def test_pixel_space_needs_no_autoencoder_and_more_arithmetic_a_step():
    pixel, latent = by_network(PIPELINES[1]), by_network(PIPELINES[0])
    assert set(pixel) == {"estimator", "velocity"}
    assert pixel["velocity"].gflop > 3 * latent["velocity"].gflop


def test_arithmetic_is_that_of_the_layers():
    """The four residual blocks of the outer level, each two convolutions of 64 channels, 3 x 3, on 128 x 128, twice."""
    small = dataclasses.replace(PIPELINES[2], num_steps=7)
    found = by_network(small)
    assert found["velocity"].calls == 7
    outer = 2 * 4 * 2 * 2 * 64 * 64 * 9 * 128 * 128 / 1e9
    assert outer < found["estimator"].gflop < 5 * outer


def test_the_table_adds_up():
    lines = list(cost_table(PIPELINES[2:]))
    assert len(lines) == 2 + 4 + 1
    parts, total = [float(line.split("|")[6]) for line in lines[2:6]], float(lines[6].split("|")[6])
    assert sum(parts) == pytest.approx(total, abs=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_command_says_so(capsys):
    assert main(["cost", "--gpu"]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "no CUDA device" in printed.err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_is_timed_in_every_mode(capsys):
    assert main(["cost", "--gpu", "--peak-tflops", "989", "--peak-gbs", "3350"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"| {mode} | 16 |") == 2 for mode in ("eager", "compiled", "graph"))
    assert printed.count("bfloat16 beside float32: at least") == 2


def test_the_roofline_is_arithmetic_for_many_faces_and_weights_for_one():
    """An H100 by its data sheet: 989 TFLOP/s and 3350 GB/s."""
    roof = Roof(989, 3350)
    found = costs(PIPELINES[2])
    weights_ms = sum(cost.calls * cost.parameters * 2 for cost in found) / 3350e9 * 1e3
    arithmetic_ms = sum(cost.calls * cost.gflop for cost in found) / 989
    assert roof.floor_ms(PIPELINES[2], 1) > 0.999 * max(weights_ms, arithmetic_ms)
    assert roof.floor_ms(PIPELINES[2], 1000) == pytest.approx(1000 * arithmetic_ms)


@pytest.mark.parametrize("peaks", [(0, 1), (1, -1)])
def test_a_roof_that_no_gpu_has_is_refused(peaks):
    with pytest.raises(ValueError, match="a GPU has more than"):
        Roof(*peaks)


@pytest.mark.timeout(300)  # few processors are fast in bfloat16
def test_bfloat16_costs_what_its_eight_bits_cost(tmp_path):
    """On the CPU here, in tiny networks: the same function measures the GPU."""
    tiny = load_trained(write_runs(tmp_path))
    pipeline = dataclasses.replace(PIPELINES[2], image_size_px=SIDE_PX, num_steps=1)
    seen = set()

    def look(*_):
        seen.add((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))

    tiny.velocity.register_forward_hook(look)
    assert 30 < bfloat16_psnr_db(tiny, pipeline, "cpu") < 80
    # Without cuDNN a GPU would run the reference's convolutions by other kernels, column by column in memory.
    assert seen == {(True, False, False), (True, True, True)}
