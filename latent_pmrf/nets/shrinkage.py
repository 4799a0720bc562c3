"""Wavelet shrinkage: noise as fine as the pixels is taken from a picture before a network sees it.

A network that folds 4 x 4 pixels into its channels has hardly any to spare for carrying noise to its output, where it
would have to be subtracted. Here the two finest bands of an undecimated wavelet transform are multiplied by a gain
between 0 and 1, the Wiener filter of a band's local variance (Mihcak et al., "Low-complexity image denoising based on
statistical modeling of wavelet coefficients", 1999), and a small network says what of that variance is noise.

All of it is computed on cells of 4 x 4 pixels folded into channels, where it is a few fast convolutions, those of the
transform with fixed kernels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_pmrf.nets.layers import zero_init

CELL_PX = 4

_BANDS = 2
_PLACES = CELL_PX**2
_OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])  # brightness, and twice colour
_GAINS = 2 * _BANDS  # of every band that of its brightness and that of its colour
_WIDTH = 32
_SCALE = 64.0  # brings variances near 1: a level of 255 is then 1/4
_FLOOR = 4e-4  # below the variance, scaled so, of any noise that 8 bits hold
_FIRST_NOISE = -1.0  # logarithm of the variance that an untrained network takes for noise: that of 2 to 3 levels
_CENTRE, _SPREAD = -1.0, 3.0  # of the logarithms of variances

Kernel = npt.NDArray[np.float64]


class WaveletShrinkage(nn.Module):
    """Multiplies the finest bands of an RGB picture, brightness and colour apart, by what of them is no noise."""

    analysis: Tensor
    mean: Tensor
    spreading: Tensor
    synthesis: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(_GAINS, _WIDTH, 3, padding=1)
        self.context = nn.Conv2d(_WIDTH, _WIDTH, 1)
        self.hidden = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.conv_out = zero_init(nn.Conv2d(_WIDTH, _GAINS, 3, padding=1))
        nn.init.constant_(self.conv_out.get_parameter("bias"), _FIRST_NOISE)
        for name, kernel in (
            ("analysis", _analysis()),
            ("mean", _mean()),
            ("spreading", _spreading()),
            ("synthesis", _synthesis()),
        ):
            self.register_buffer(name, torch.from_numpy(kernel).float(), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [0, 1] to the same shape and range; S a multiple of `CELL_PX`."""
        around = F.pad(y - 0.5, (CELL_PX,) * 4, mode="replicate")
        details = F.conv2d(F.pixel_unshuffle(around, CELL_PX), self.analysis)  # (B, bands * 3 * 16, S/4, S/4)
        noisy = F.conv2d(F.pad(1 - self._gains(details), (1,) * 4, mode="replicate"), self.spreading)
        return y - F.pixel_shuffle(F.conv2d(noisy * details, self.synthesis), CELL_PX).to(y.dtype)

    def _gains(self, details: Tensor) -> Tensor:
        """(B, 2 * bands, S/4, S/4) in [0, 1]."""
        signal = (F.conv2d((details.float() * _SCALE).square(), self.mean).float() + _FLOOR).log()
        x = F.silu(self.conv_in((signal - _CENTRE) / _SPREAD))
        x = x + self.context(x.mean((2, 3), keepdim=True))  # how noisy the whole of the picture is
        noise = self.conv_out(F.silu(self.hidden(x))).float()
        return torch.sigmoid(signal - noise)  # signal / (signal + noise), of the variances


def _analysis() -> Kernel:
    """(bands * 3 * 16, 3 * 16, 3, 3): cells of RGB to those of the bands in opponent colours."""
    smooth = [_delta(), _binomial(1), np.convolve(_binomial(1), _binomial(2), mode="same")]
    lows = [np.outer(weights, weights) for weights in smooth]
    place, cell = np.arange(CELL_PX), np.arange(3)
    # How far a pixel (q of the k-th cell) lies from the one that is computed (p of the middle cell).
    away = place[None, :, None] + CELL_PX * (cell[None, None, :] - 1) - place[:, None, None]  # (p, q, k)
    inside, index = abs(away) <= CELL_PX - 1, np.clip(away + CELL_PX - 1, 0, 2 * CELL_PX - 2)
    kernels = []
    for band in range(_BANDS):
        wavelet = lows[band] - lows[band + 1]
        taps = wavelet[index[:, :, :, None, None, None], index[None, None, None]]  # rows (p, q, k), columns (p, q, k)
        taps = taps * inside[:, :, :, None, None, None] * inside[None, None, None]
        kernels.append(np.einsum("oc,pqkrsl->oprcqskl", _OPPONENT, taps))
    return np.stack(kernels).reshape(_BANDS * 3 * _PLACES, 3 * _PLACES, 3, 3)


def _mean() -> Kernel:
    """(gains, bands * 3 * 16, 1, 1): squares to variances; the two colours share one."""
    share = np.array([[1, 0, 0], [0, 0.5, 0.5]])
    kernel = np.einsum("ab,go,p->agbop", np.eye(_BANDS), share, np.full(_PLACES, 1 / _PLACES))
    return kernel.reshape(_GAINS, _BANDS * 3 * _PLACES, 1, 1)


def _spreading() -> Kernel:
    """(bands * 3 * 16, gains, 3, 3): gains of cells to those of their pixels, linear between the cells' centres."""
    centre = (np.arange(CELL_PX) + 0.5) / CELL_PX - 0.5
    hats = np.clip(1 - abs(np.arange(-1, 2) - centre[:, None]), 0, None)  # (p, k)
    share = np.array([[1, 0], [0, 1], [0, 1]])
    kernel = np.einsum("ab,og,pk,rl->aoprbgkl", np.eye(_BANDS), share, hats, hats)
    return kernel.reshape(_BANDS * 3 * _PLACES, _GAINS, 3, 3)


def _synthesis() -> Kernel:
    """(3 * 16, bands * 3 * 16, 1, 1): the sum of the bands in RGB."""
    kernel = np.einsum("b,oc,pq->cpboq", np.ones(_BANDS), _OPPONENT, np.eye(_PLACES))
    return kernel.reshape(3 * _PLACES, _BANDS * 3 * _PLACES, 1, 1)


def _delta() -> Kernel:
    return np.eye(2 * CELL_PX - 1)[CELL_PX - 1]


def _binomial(distance: int) -> Kernel:
    """Weights 1/4, 1/2, 1/4 at this distance, (7,)."""
    weights = 0.5 * _delta()
    weights[[CELL_PX - 1 - distance, CELL_PX - 1 + distance]] = 0.25
    return weights
