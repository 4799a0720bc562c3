"""Training losses; all take and give float32 whatever the autocast dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch.nn import functional as F

RELATIVE_MSE_FLOOR = 0.01

_LEAST_POWER = 1e-6  # an amplitude of a thousandth, below which the root's slope would drown the others'


def relative_mse(prediction: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean over images of MSE(prediction) / (MSE(observed) + 0.01).

    Plain MSE is dominated by the most degraded photographs. The weight depends on the degradation and hardly on what
    the network can change, so the minimiser stays (nearly) the posterior mean. The constant (an input of 20 dB) keeps
    photographs that are hardly degraded from dominating in turn: with 0.001 (30 dB) their gradients drowned the
    others' (docs/EXPERIMENTS.md).

    Args:
        prediction: (B, C, H, W).
        target: (B, C, H, W).
        observed: (B, C, H, W), the degraded image.
    """
    error = (prediction.float() - target).square().mean((1, 2, 3))
    return (error / _reference(target, observed)).mean()


def mse(prediction: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Mean squared error of (B, C, H, W) images: its minimiser is the posterior mean (paper, section 2.2)."""
    return (prediction.float() - target).square().mean()


def l1(prediction: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
    """Mean absolute error; DifFace's published estimator was trained with it, its minimiser is the median."""
    return (prediction.float() - target).abs().mean()


REGRESSION_LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relative_mse": relative_mse,
    "mse": mse,
    "l1": l1,
}
"""Losses of an estimator, of (prediction, target, observed), by their name in a recipe."""


def shared_error(prediction: torch.Tensor, target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Mean square over pixels of the mean error over images, each divided as `relative_mse` divides its square.

    A posterior mean errs by nothing on average, so what is left here is what the network does to every image alike, and
    the n-th part of `relative_mse` for n images, whose minimiser is the same.

    Args:
        prediction: (B, C, H, W).
        target: (B, C, H, W).
        observed: (B, C, H, W), the degraded image.
    """
    scale = _reference(target, observed).sqrt().view(-1, 1, 1, 1)
    return ((prediction.float() - target) / scale).mean(0).square().mean()


def _reference(target: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """(B,) what errors are relative to, see `relative_mse`."""
    return (observed - target).square().mean((1, 2, 3)) + RELATIVE_MSE_FLOOR


def laplacian_pyramid_l1(prediction: torch.Tensor, target: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """L1 distance between the bands of two Laplacian pyramids, summed over `levels` octaves.

    A plain L1 gives fine texture almost no weight, because its amplitude is small; each octave counts here alike.

    Args:
        prediction: (B, C, H, W), H and W divisible by `2**levels`.
        target: (B, C, H, W).
        levels: Number of octaves, finest first.
    """
    difference = prediction.float() - target
    total = difference.new_zeros(())
    for band in _bands(difference, levels):
        total = total + band.abs().mean()
    return total


def band_amplitude_l1(prediction: torch.Tensor, target: torch.Tensor, levels: int = 2, window: int = 8) -> torch.Tensor:
    """L1 distance between the local amplitudes of the bands of two Laplacian pyramids, summed over `levels` octaves.

    What a distance between bands cannot place it makes small: its minimiser has less texture than the target. This one
    asks for as much of it, wherever its lines lie. The amplitude is the root of the mean square over the channels of a
    window.

    Args:
        prediction: (B, C, H, W), H and W divisible by `window * 2**(levels - 1)`; what is left over does not count.
        target: (B, C, H, W).
        levels: Number of octaves, finest first.
        window: Side of a window, in samples of its octave.
    """
    prediction, target = prediction.float(), target.float()
    total = prediction.new_zeros(())
    for found, wanted in zip(_bands(prediction, levels), _bands(target, levels), strict=True):
        total = total + (_amplitude(found, window) - _amplitude(wanted, window)).abs().mean()
    return total


def _bands(image: torch.Tensor, levels: int) -> Iterator[torch.Tensor]:
    """The bands of the Laplacian pyramid of (B, C, H, W), finest first, each half as large as the one before."""
    for _ in range(levels):
        coarse = F.avg_pool2d(image, 2)
        yield image - F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        image = coarse


def _amplitude(band: torch.Tensor, window: int) -> torch.Tensor:
    """Local amplitude of (B, C, H, W): (B, 1, H / window, W / window)."""
    return (F.avg_pool2d(band.square().mean(1, keepdim=True), window) + _LEAST_POWER).sqrt()


def repetition(image: torch.Tensor, period: int, window: int) -> torch.Tensor:
    """Mean square of what repeats every `period` samples, in rows and columns, within windows.

    The mean of a window over all its periods keeps what is the same in each of them; of white noise in n x n periods
    the n-th part of its amplitude is left. The window's own mean does not count.

    Args:
        image: (B, C, H, W); what is left over beyond whole windows does not count.
        period: Samples; 1 repeats nothing.
        window: Side of a window, a multiple of `period`; where the image is smaller, the most periods it has room for.
    """
    window = min(window, *(side // period * period for side in image.shape[-2:]))
    rows, columns = (side // window for side in image.shape[-2:])
    whole = image.float()[..., : rows * window, : columns * window]
    cells = whole.unflatten(3, (columns, -1, period)).unflatten(2, (rows, -1, period))  # (B, C, r, n, p, c, n, p)
    mean = cells.mean((3, 6))
    return (mean - mean.mean((3, 5), keepdim=True)).square().mean()


def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL divergence of N(mean, exp(logvar)) from N(0, 1), averaged over all elements."""
    return 0.5 * (mean.float().square() + logvar.float().exp() - 1.0 - logvar.float()).mean()


def band_energy(image: torch.Tensor) -> torch.Tensor:
    """(B,) variance of the 4-neighbour Laplacian of the channel mean, the usual sharpness figure."""
    gray = image.float().mean(1, keepdim=True)
    kernel = gray.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    with torch.autocast(image.device.type, enabled=False):  # in bfloat16 its rounding outweighs a face's finest detail
        return F.conv2d(gray, kernel).flatten(1).var(1)
