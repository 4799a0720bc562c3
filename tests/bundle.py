"""A bundle small enough to be made by every test that needs one: the contract alone, or with networks that run."""

from __future__ import annotations

from service.core.manifest import LatentSpec, Manifest, NetworkSpec

NETWORKS = ("estimator", "vae_encoder", "velocity", "vae_decoder")


def tiny_manifest(image_size_px: int = 64) -> Manifest:
    """A manifest whose networks have no files: for tests with a fake queue or backend."""
    network = NetworkSpec(file="absent.onnx", sha256="0" * 64, inputs=(), outputs=(), max_batch_size=4)
    return Manifest(
        schema_version=1,
        name="tiny",
        version="7",
        space="latent",
        image_size_px=image_size_px,
        latent=LatentSpec(channels=1, downscale=8, mean=(0.0,), std=(1.0,)),
        sigma_s=(0.1,),
        default_num_steps=4,
        max_num_steps=20,
        default_fidelity=1.0,
        networks=dict.fromkeys(NETWORKS, network),
        provenance={},
        quality={},
    )
