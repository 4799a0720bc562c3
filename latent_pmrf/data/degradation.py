"""Blind face degradation (paper, section 4.1; the parameters of DifFace), with NumPy and OpenCV, seeded.

    y = resize(JPEG(noise(downsample(blur(x)))))

Every parameter is drawn on the 512-pixel scale of the paper. A model of another size sees the same photograph
degraded the same way and resized: blur of sigma 8 at 512 is blur of sigma 4 at 256.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from latent_pmrf.data.screens import Screen, draw_screen, log_uniform

U8Image = npt.NDArray[np.uint8]
REFERENCE_SIZE_PX = 512

_DRAWN = ("blur_sigma", "downsample", "noise_sigma", "jpeg_quality")


@dataclass(frozen=True, slots=True)
class DegradationRange:
    """Ranges of the random parameters; the defaults are the paper's.

    Attributes:
        blur_sigma: Standard deviation of the Gaussian kernel, in pixels at 512.
        kernel_size: Side of the kernel, odd.
        isotropic_probability: Chance of one sigma for both axes.
        downsample: Factor between 512 and the smallest size.
        noise_sigma: Standard deviation of the noise, of 255.
        jpeg_quality: Quality of the compression, at the smallest size.
        gray_probability: Chance of a grey photograph.
        gray_target: Whether the clean photograph of a grey one is grey, too, as DifFace and PMRF trained; one in colour
            asks for colours that nothing tells.
        log_uniform: Draw blur, downsampling and a noise that begins above 0 uniformly on a logarithmic axis, so that
            light degradations are seen as often as heavy ones; the paper draws them uniformly.
        fine_probability: Chance of a photograph whose fault is not its size: noise and blocks are as fine as the
            crop's own pixels, where the other ranges leave them enlarged. It is drawn from the four ranges below, as
            with `log_uniform`; the paper has none.
        fine_blur_sigma: As `blur_sigma`.
        fine_downsample: As `downsample`.
        fine_unscaled_probability: Chance of such a photograph not to be scaled at all, whatever was drawn for it: any
            scaling blends neighbouring pixels, so that noise which is independent in each is found in no other.
        fine_noise_sigma: As `noise_sigma`.
        fine_jpeg_quality: As `jpeg_quality`.
        fine_screen_probability: Chance of such a photograph to lie behind a `Screen`.
    """

    blur_sigma: tuple[float, float] = (0.1, 15.0)
    kernel_size: int = 41
    isotropic_probability: float = 0.5
    downsample: tuple[float, float] = (0.8, 32.0)
    noise_sigma: tuple[float, float] = (0.0, 20.0)
    jpeg_quality: tuple[int, int] = (30, 100)
    gray_probability: float = 0.01
    gray_target: bool = True
    log_uniform: bool = False
    fine_probability: float = 0.0
    fine_blur_sigma: tuple[float, float] = (0.1, 6.0)
    fine_downsample: tuple[float, float] = (0.7, 2.0)
    fine_noise_sigma: tuple[float, float] = (0.0, 30.0)
    fine_jpeg_quality: tuple[int, int] = (10, 100)
    fine_screen_probability: float = 0.0
    fine_unscaled_probability: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or done."""
        for name in (f"{kind}{parameter}" for kind in ("", "fine_") for parameter in _DRAWN):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} must be two numbers from 0, the smaller first, not {[low, high]}")
            if low == 0 and name.endswith(("blur_sigma", "downsample")):
                raise ValueError(f"{name} must begin above 0")
            if high > 100 and name.endswith("jpeg_quality"):
                raise ValueError(f"{name} ends at 100, not at {high}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} must be odd")
        for name in (field.name for field in dataclasses.fields(self) if field.name.endswith("probability")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    def for_coarse(self, side_px: int) -> DegradationRange:
        """What may be done to a photograph of so few pixels among larger ones.

        It is shrunk at least to half its side: the detail that it lacks is then out of reach from the degraded picture,
        and its softness teaches nothing. No `fine_probability` is left, for it has no pixels as fine as the crop's.
        """
        low, high = self.downsample
        downsample = (min(max(low, 2 * REFERENCE_SIZE_PX / side_px), high), high)
        return dataclasses.replace(self, downsample=downsample, fine_probability=0.0)

    def fine(self) -> DegradationRange:
        """The `fine_*` ranges as ranges of their own."""
        own = {name: getattr(self, f"fine_{name}") for name in _DRAWN}
        return dataclasses.replace(self, **own, log_uniform=True, fine_probability=0.0)


@dataclass(frozen=True, slots=True)
class Degradation:
    """One drawn degradation; `noise_seed` makes `apply` a pure function."""

    sigma: tuple[float, float]
    theta: float
    downsample: float
    noise_sigma: float
    jpeg_quality: int
    gray: bool
    noise_seed: int
    kernel_size: int = 41
    screen: Screen | None = None

    def apply(self, image: U8Image, size_px: int) -> U8Image:
        """Degrade an RGB photograph.

        Args:
            image: (S, S, 3) uint8; resized to 512 first.
            size_px: Side of the result.

        Returns:
            (size_px, size_px, 3) uint8.
        """
        return resize(self.at_reference(resize(image, REFERENCE_SIZE_PX)), size_px)

    def at_reference(self, image: U8Image) -> U8Image:
        """Degrade a (512, 512, 3) uint8 RGB photograph without resizing it."""
        side = image.shape[0]
        low_side = max(8, round(side / self.downsample))
        blurred = _blur(image, self.sigma, self.theta, self.kernel_size)
        low = cv2.resize(blurred, (low_side, low_side), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        if self.screen is not None:
            low = self.screen.over(low)
        noise = np.random.default_rng(self.noise_seed).standard_normal(low.shape, dtype=np.float32)
        low_u8 = np.clip(np.rint(low + self.noise_sigma * noise), 0, 255).astype(np.uint8)
        if self.gray:
            low_u8 = without_colour(low_u8)
        compressed = _jpeg(low_u8, self.jpeg_quality)
        return np.asarray(cv2.resize(compressed, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def draw_degradation(ranges: DegradationRange, rng: np.random.Generator) -> Degradation:
    """Draw one degradation from `ranges`; no random number is spent on what has no chance."""
    screen = None
    if _happens(rng, ranges.fine_probability):
        if _happens(rng, ranges.fine_screen_probability):
            screen = draw_screen(rng)
        ranges = ranges.fine()
        if _happens(rng, ranges.fine_unscaled_probability):
            ranges = dataclasses.replace(ranges, downsample=(1.0, 1.0))
    spread = log_uniform if ranges.log_uniform else _uniform
    sigma_x = spread(rng, ranges.blur_sigma)
    sigma_y = sigma_x if rng.random() < ranges.isotropic_probability else spread(rng, ranges.blur_sigma)
    return Degradation(
        sigma=(sigma_x, sigma_y),
        theta=rng.uniform(0.0, math.pi),
        downsample=spread(rng, ranges.downsample),
        noise_sigma=(spread if ranges.noise_sigma[0] > 0 else _uniform)(rng, ranges.noise_sigma),
        jpeg_quality=int(rng.integers(ranges.jpeg_quality[0], ranges.jpeg_quality[1] + 1)),
        gray=bool(rng.random() < ranges.gray_probability),
        noise_seed=int(rng.integers(2**63)),
        kernel_size=ranges.kernel_size,
        screen=screen,
    )


def gaussian_kernel(sigma: tuple[float, float], theta: float, size: int) -> npt.NDArray[np.float32]:
    """(size, size) float32 Gaussian with standard deviations `sigma` along axes turned by `theta` radians; sum 1."""
    offsets = np.arange(size, dtype=np.float64) - (size - 1) / 2
    x, y = np.meshgrid(offsets, offsets)
    along = (x * math.cos(theta) + y * math.sin(theta)) / sigma[0]
    across = (y * math.cos(theta) - x * math.sin(theta)) / sigma[1]
    kernel = np.exp(-0.5 * (along**2 + across**2))
    return (kernel / kernel.sum()).astype(np.float32)


def resize(image: U8Image, size_px: int) -> U8Image:
    """Resize a square image: area averaging down, bicubic up, unchanged at its own size."""
    if image.shape[0] == size_px:
        return image
    interpolation = cv2.INTER_AREA if image.shape[0] > size_px else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=interpolation), dtype=np.uint8)


def without_colour(image: U8Image) -> U8Image:
    """An RGB picture (H, W, 3) uint8 with its luma (ITU-R BT.601) in all three channels."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def _blur(image: U8Image, sigma: tuple[float, float], theta: float, kernel_size: int) -> U8Image:
    if sigma[0] == sigma[1]:  # a separable kernel gives the same picture in a fifth of the time
        size = (kernel_size, kernel_size)
        return np.asarray(cv2.GaussianBlur(image, size, sigma[0], borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)
    kernel = gaussian_kernel(sigma, theta, kernel_size)
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), dtype=np.uint8)


def _jpeg(image: U8Image, quality: int) -> U8Image:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1]


def _happens(rng: np.random.Generator, probability: float) -> bool:
    return probability > 0 and bool(rng.random() < probability)


def _uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(rng.uniform(*bounds))
