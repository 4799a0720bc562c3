import itertools

import pytest
import torch

from latent_pmrf.training.draws import draw_seed
from latent_pmrf.training.flow import FlowStage, SourceNoise
from latent_pmrf.training.frozen import FrozenNetworks
from latent_pmrf.training.latents import FreshPairs
from latent_pmrf.training.vae import VAEStage
from tests.tiny_stages import HDIT, STILL, UNET, VAE, frozen
from tests.training_files import SIDE_PX, crops


def drawn(seed, index):
    return torch.randn(4, generator=torch.Generator().manual_seed(draw_seed(seed, index))).tolist()


def test_every_seed_and_every_index_draws_other_numbers():
    pairs = list(itertools.product((0, 1, 2, 71, 2**32 - 1), (0, 1, 2, 2**31)))
    assert len({tuple(drawn(*pair)) for pair in pairs}) == len(pairs)
    assert drawn(3, 7) == drawn(3, 7)


@pytest.mark.parametrize("bit", [0, 1, 16, 31])
def test_seeds_fit_what_pytorch_s_generator_remembers(bit):
    assert 0 <= draw_seed(2**bit, 2**32 - 1) < 2**32
    assert draw_seed(2**bit, 0) != draw_seed(0, 0)


def test_neighbouring_seeds_meet_after_millions_of_draws():
    starts = sorted(draw_seed(seed, 0) for seed in range(100))
    assert min(after - before for before, after in itertools.pairwise(starts)) > 19_000_000


def flow_stage(folder, seed, pairs, validation):
    networks = FrozenNetworks(frozen(UNET, 1), frozen(VAE, 2))
    noise = SourceNoise(sigma=0.5)
    fresh = FreshPairs(pairs, networks, seed=0)
    return FlowStage(
        HDIT, fresh, batch_size=2, seed=seed, noise=noise, run_dir=folder / str(seed), validation=validation
    )


def test_the_seed_of_a_flow_decides_its_noise_and_times(tmp_path, pairs, validation):
    stages = [flow_stage(tmp_path, seed, pairs, validation) for seed in (1, 2, 1)]
    model, batch = frozen(HDIT, 3), stages[0].batch(0)
    one, other, again = (stage.loss(model, batch, 0)[0].item() for stage in stages)
    assert one == again != other


def test_the_seed_of_an_autoencoder_decides_the_noise_of_its_latents(validation):
    model, losses = frozen(VAE, 3), []
    for seed in (1, 2, 1):
        stage = VAEStage(
            VAE,
            crops(4),
            size_px=SIDE_PX,
            crop_px=32,
            batch_size=2,
            seed=seed,
            validation=validation,
            augmentation=STILL,
        )
        losses.append(stage.loss(model, torch.zeros(2, 3, 32, 32), 0)[0].item())
    assert losses[0] == losses[2] != losses[1]
