"""Full-reference and no-reference measures of one restored face, with NumPy and OpenCV.

Images are (H, W, 3) floating-point RGB in [0, 1]; float32 stays float32 (fast), everything else is computed in
float64. None of these needs learnt weights: see `identity` for those that do.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.floating]

_WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_LUMA = (0.299, 0.587, 0.114)


def psnr(image: Image, reference: Image) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal images.

    Raises:
        ValueError: The shapes differ or are not (H, W, 3).
    """
    image, reference = _pair(image, reference)
    error = float(np.mean(np.square(image - reference), dtype=np.float64))
    return float("inf") if error == 0 else -10.0 * float(np.log10(error))


def ssim(image: Image, reference: Image) -> float:
    """Structural similarity (Wang et al., 2004), mean of the three RGB channels.

    The variant of the original paper: 11x11 Gaussian window of sigma 1.5, population covariance, K1 0.01, K2 0.03,
    range 1, averaged where the window lies inside the image. scikit-image gives the same number with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2`.

    Raises:
        ValueError: The shapes differ, are not (H, W, 3), or are smaller than the window.
    """
    image, reference = _pair(image, reference)
    luminance, contrast = _ssim_terms(image, reference)
    return float(np.mean(luminance * contrast))


def ms_ssim(image: Image, reference: Image) -> float:
    """Multi-scale structural similarity (Wang et al., 2003): five scales, 2x2 averaging between them.

    The window and constants are those of `ssim`; a negative contrast term counts as 0; mean of the RGB channels.

    Raises:
        ValueError: The shapes differ, are not (H, W, 3), or a side is below 176 px (the window at the fifth scale).
    """
    image, reference = _pair(image, reference)
    product = np.ones(3)
    for scale, weight in enumerate(_MS_WEIGHTS):
        luminance, contrast = _ssim_terms(image, reference)
        last = scale == len(_MS_WEIGHTS) - 1
        term = np.mean(luminance * contrast if last else contrast, axis=(0, 1), dtype=np.float64)
        product *= np.maximum(term, 0.0) ** weight
        if not last:
            image, reference = _halve(image), _halve(reference)
    return float(product.mean())


def laplacian_variance(image: Image) -> float:
    """Variance of the 4-neighbour Laplacian of the luma: fine detail, and just as well grain and noise."""
    grey = luma(image)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(np.var(laplacian, dtype=np.float64))


def sharpness_ratio(image: Image, reference: Image) -> float:
    """`laplacian_variance` over the reference's. Grain inflates it: never read it alone.

    Raises:
        ValueError: The reference is flat.
    """
    denominator = laplacian_variance(reference)
    if denominator == 0:
        raise ValueError("the reference has no detail to compare with")
    return laplacian_variance(image) / denominator


def ind_rmse(image: Image, estimate: Image) -> float:
    """Root mean square difference to the estimator's output on [0, 1] (paper, section 4.4)."""
    image, estimate = _pair(image, estimate)
    return float(np.sqrt(np.mean(np.square(image - estimate), dtype=np.float64)))


def colour_shift(image: Image, reference: Image) -> float:
    """Mean absolute difference of the three channel means on [0, 1]; a cast of the whole picture, not local errors."""
    image, reference = _pair(image, reference)
    means = image.mean(axis=(0, 1), dtype=np.float64), reference.mean(axis=(0, 1), dtype=np.float64)
    return float(np.mean(np.abs(means[0] - means[1])))


def blockiness(image: Image, period_px: int = 8) -> float:
    """Steps across the lines of a `period_px` grid over the steps elsewhere; 1 means that no grid shows.

    The grid is anchored at the corner, where JPEG and the latent cells of the VAE have theirs. A step is the absolute
    difference of neighbouring pixels, averaged over both directions and all channels.

    Raises:
        ValueError: The image is not (H, W, 3) or holds no complete period.
    """
    image = _checked(image)
    if min(image.shape[:2]) < 2 * period_px:
        raise ValueError(f"an image of {image.shape[:2]} is too small for a grid of {period_px} px")
    on_grid, elsewhere = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(image, axis=axis)).mean(axis=(1 - axis, 2), dtype=np.float64)
        at_line = (np.arange(len(steps)) + 1) % period_px == 0
        on_grid.append(steps[at_line].mean())
        elsewhere.append(steps[~at_line].mean())
    total = float(np.mean(elsewhere))
    return float(np.mean(on_grid)) / total if total > 0 else 1.0


def flat_grain(image: Image, reference: Image) -> float:
    """Fine structure in the flattest quarter of the reference, above the reference's own, in 8-bit levels.

    The fine structure is the RMS over the RGB channels of what a Gaussian of sigma 2 removes; flat is where the
    reference's luma varies least in a Gaussian window of sigma 4. Positive means grain or noise, negative smoothing.
    """
    image, reference = _pair(image, reference)
    grey = luma(reference)
    spread = cv2.GaussianBlur(np.square(grey), (0, 0), 4.0) - np.square(cv2.GaussianBlur(grey, (0, 0), 4.0))
    flat = spread <= np.quantile(spread, 0.25)
    return 255.0 * (_fine_rms(image, flat) - _fine_rms(reference, flat))


def luma(image: Image) -> Image:
    """(H, W) BT.601 luma in [0, 1].

    Raises:
        ValueError: The image is not (H, W, 3).
    """
    image = _checked(image)
    return image @ np.asarray(_LUMA, dtype=image.dtype)


def _fine_rms(image: Image, mask: npt.NDArray[np.bool_]) -> float:
    residual = image - cv2.GaussianBlur(image, (0, 0), 2.0)
    return float(np.sqrt(np.mean(np.square(residual[mask]), dtype=np.float64)))


def _ssim_terms(image: Image, reference: Image) -> tuple[Image, Image]:
    """Luminance and contrast-structure maps, (H - 10, W - 10, 3) each."""
    if min(image.shape[:2]) < _WINDOW:
        raise ValueError(f"{image.shape[:2]} is smaller than the {_WINDOW} px window; MS-SSIM needs 176 px a side")
    mean_a, mean_b = _blur(image), _blur(reference)
    product, squares = mean_a * mean_b, np.square(mean_a) + np.square(mean_b)
    covariance = _blur(image * reference) - product
    variances = _blur(np.square(image) + np.square(reference)) - squares
    c1, c2 = _K1**2, _K2**2
    return (2 * product + c1) / (squares + c1), (2 * covariance + c2) / (variances + c2)


def _blur(image: Image) -> Image:
    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA, cv2.CV_32F if image.dtype == np.float32 else cv2.CV_64F)
    margin = _WINDOW // 2
    smooth = np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel), dtype=image.dtype)
    return smooth[margin:-margin, margin:-margin]


def _halve(image: Image) -> Image:
    height, width = (side // 2 * 2 for side in image.shape[:2])
    quads = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.ascontiguousarray(quads.mean(axis=(1, 3)))


def _pair(image: Image, reference: Image) -> tuple[Image, Image]:
    if image.shape != reference.shape:
        raise ValueError(f"shapes differ: {image.shape} and {reference.shape}")
    return _checked(image), _checked(reference)


def _checked(image: Image) -> Image:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be (H, W, 3), not {image.shape}")
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"an image must be floating point in [0, 1], not {image.dtype}")
    return image if image.dtype == np.float32 else image.astype(np.float64, copy=False)
