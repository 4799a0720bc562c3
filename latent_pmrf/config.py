"""Frozen specifications of the three networks, with named presets.

A specification holds everything that decides the shape of a network and of its state dict; it is stored in
every checkpoint, so that a file is self-describing. Presets `*-published` are the configurations of the public
code bases; presets `s` are the reduced networks of the bundled model `latent-pmrf-s` for 512 x 512 faces, which has the
autoencoder of presets `xs`, those of `latent-pmrf-xs` for 256 x 256.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

Attention = Literal["neighborhood", "global"]
Upsampler = Literal["nearest+conv", "pixelshuffledirect"]
Flavour = Literal["pmrf", "latent_pmrf"]
TimeConvention = Literal["t", "sigma"]
VAENorm = Literal["layer", "group"]
Resizing = Literal["separate", "in_block"]

_BLOCKS = ("depth", "depths", "mapping_depth", "layers_per_block", "decoder_layers_per_block", "layers_mid_block")


def _check_choice(name: str, value: str, choices: Any) -> None:  # noqa: ANN401 - a Literal has no type of its own
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {get_args(choices)}, not {value!r}")


def _check_sizes(config: Any) -> None:  # noqa: ANN401 - any of the specifications
    """Refuse a network without levels, and numbers that build none: only blocks may be missing."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        entries = value if isinstance(value, tuple) else (value,)
        numbers = [entry for entry in entries if isinstance(entry, int | float) and not isinstance(entry, bool)]
        may_be_none = field.name in _BLOCKS
        if not entries or any(number < 0 if may_be_none else number <= 0 for number in numbers):
            shown = list(entries) if isinstance(value, tuple) else value
            raise ValueError(f"{field.name} must be {'0 or more' if may_be_none else 'above 0'}, not {shown}")


@dataclass(frozen=True, slots=True)
class SwinIRConfig:
    """Posterior-mean estimator (Liang et al., 2021; the variant of DifFace with an unshuffled input).

    Attributes:
        image_channels: Channels of the image, in and out.
        embed_dim: Token width; divisible by every entry of `num_heads`.
        depths: Transformer blocks in each residual group.
        num_heads: Attention heads in each residual group.
        window_size: Side of an attention window, in tokens.
        mlp_ratio: Hidden width of the feed-forward over `embed_dim`.
        unshuffle: Pixels per token side (`PixelUnshuffle` before the first convolution).
        upsampler: `nearest+conv` is the published head; `pixelshuffledirect` predicts the unshuffled image with one
            convolution (the lightweight SwinIR's head), at a fraction of the cost.
        upsample_width: Width of the `nearest+conv` head.
        image_skip: Add the input image to the output, so that the network predicts the residual.
        mask_size: Token map whose shifted-window mask the public checkpoint stores, or None to store none.
    """

    image_channels: int = 3
    embed_dim: int = 180
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6, 6, 6)
    num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6, 6, 6)
    window_size: int = 8
    mlp_ratio: float = 2.0
    unshuffle: int = 8
    upsampler: Upsampler = "nearest+conv"
    upsample_width: int = 64
    image_skip: bool = False
    mask_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse inconsistent sizes with a message that names the field."""
        _check_sizes(self)
        if len(self.depths) != len(self.num_heads):
            raise ValueError("depths and num_heads must have one entry per residual group")
        if any(self.embed_dim % heads for heads in self.num_heads):
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by every entry of num_heads")
        _check_choice("upsampler", self.upsampler, Upsampler)
        if self.upsampler == "nearest+conv" and self.unshuffle.bit_count() != 1:
            raise ValueError(f"unshuffle {self.unshuffle} must be a power of two: the head doubles the resolution")


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Convolutional estimator for small training budgets; not of the paper (see docs/EXPERIMENTS.md).

    Attributes:
        image_channels: Channels of the image, in and out.
        image_size_px: Side of the images; fixed, because the attention has a learnt position embedding.
        unshuffle: Pixels per side folded into channels before the first convolution.
        widths: Width of each level; each level but the last halves the resolution.
        depth: Residual blocks per level, down and up, and in the middle.
        heads: Heads of the attention at the lowest resolution.
        mirror_average: Outside training, average the estimates of the image and of its mirror image (self-ensemble of
            Timofte et al., 2016): the posterior mean of mirrored faces is the mirrored posterior mean, the network's
            is only nearly so.
        shrinkage: Free the finest detail from noise first (see `latent_pmrf.nets.shrinkage`).
    """

    image_channels: int = 3
    image_size_px: int = 256
    unshuffle: int = 4
    widths: tuple[int, ...] = (48, 96, 192)
    depth: int = 2
    heads: int = 4
    mirror_average: bool = False
    shrinkage: bool = False

    def __post_init__(self) -> None:
        """Refuse inconsistent sizes with a message that names the field."""
        _check_sizes(self)
        if self.shrinkage and (self.image_channels != 3 or self.image_size_px % 4):
            raise ValueError(
                f"shrinkage is for images of 3 channels with a side that 4 divides, not of {self.image_channels} "
                f"channels and {self.image_size_px} px"
            )
        multiple = self.unshuffle * 2 ** (len(self.widths) - 1)
        if self.image_size_px % multiple:
            raise ValueError(f"image_size_px {self.image_size_px} must be a multiple of {multiple}")
        if self.widths[-1] % self.heads:
            raise ValueError(f"heads {self.heads} must divide the last of widths {self.widths}")


@dataclass(frozen=True, slots=True)
class SimVAEConfig:
    """Sim-VAE: convolutional autoencoder with pixel-wise LayerNorm and separate resizing layers (paper, section 3.3).

    Attributes:
        image_channels: Channels of the image, in [-1, 1].
        block_out_channels: Width of each level; each level but the last halves the resolution.
        layers_per_block: Residual blocks per encoder level.
        decoder_layers_per_block: Residual blocks per decoder level; the published network has one more than its encoder
            has.
        layers_mid_block: Residual blocks at the lowest resolution, in encoder and decoder each.
        latent_channels: Channels of the latent (the encoder predicts mean and log-variance).
        stem_unshuffle: Pixels per side folded into channels before the first convolution and unfolded after the
            last (1 is the published network): full-resolution layers are where a CPU spends its time.
        linear_skip: Add a linear autoencoder of `downscale` x `downscale` patches (initialised by PCA) to the mean of
            the encoder and to the output of the decoder, so that the network learns only what PCA cannot.
        norm: `layer` normalises the channels of a pixel, `group` is SD-VAE's GroupNorm (paper, table 2).
        two_norms: SD-VAE's norms: before either convolution of a residual block, and before the last one of encoder and
            decoder.
        mid_attention: Self-attention instead of every second middle block (paper, table 2).
        resizing: `separate` layers change resolution and width together; `in_block` is SD-VAE's: resizing layers keep
            the width and the following residual block changes it (paper, table 2).
    """

    image_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    decoder_layers_per_block: int = 3
    layers_mid_block: int = 3
    latent_channels: int = 32
    stem_unshuffle: int = 1
    linear_skip: bool = False
    norm: VAENorm = "layer"
    two_norms: bool = False
    mid_attention: bool = False
    resizing: Resizing = "separate"

    def __post_init__(self) -> None:
        """Refuse unknown choices and sizes with a message that names the field."""
        _check_sizes(self)
        _check_choice("norm", self.norm, VAENorm)
        _check_choice("resizing", self.resizing, Resizing)

    @property
    def downscale(self) -> int:
        """Image pixels per latent side."""
        return int(self.stem_unshuffle * 2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True, slots=True)
class HDiTConfig:
    """Hourglass diffusion transformer (Crowson et al., 2024) as velocity network.

    Two published variants exist. `flavour="pmrf"` is PMRF's pixel network: linear layers without biases, cosine
    attention with a learnt scale, 2x2 token merge and split. `flavour="latent_pmrf"` is Latent-PMRF's: convolutions
    with biases, plain softmax scale, strided convolution down, nearest + convolution up.

    Attributes:
        in_channels: Channels of `x_t` and of the velocity.
        patch_size: Pixels (or latent cells) per token side.
        widths: Token width of each level.
        depths: Blocks at each level (the outer levels have as many again on the way up).
        attention: Kind of attention at each level.
        head_dim: Width of one attention head, per level.
        kernel_size: Side of the neighbourhood, in tokens.
        mapping_width: Width of the conditioning vector.
        mapping_depth: Feed-forward blocks of the mapping network.
        ff_mult: Hidden width of every feed-forward over its width.
        depthwise_conv: Depth-wise 3x3 convolution after the query/key/value and feed-forward input projections.
        flavour: Which published variant, see above.
        time_convention: What the weights were trained on. `t`: time runs from source (0) to data (1) and the velocity
            is data - source. `sigma`: the public Latent-PMRF code, sigma = 1 - t and velocity source - data; the
            network converts at its entrance and exit, so that its callers always see the convention `t`.
        mean_conditioned: The network also sees the source without its noise, and is preconditioned by it (see
            `latent_pmrf.nets.preconditioning`); of neither published variant.
        cosine_attention: Cosine attention in Latent-PMRF's variant too, which bounds the logits; PMRF's always has it.
    """

    in_channels: int = 32
    patch_size: int = 1
    widths: tuple[int, ...] = (256, 512, 1024)
    depths: tuple[int, ...] = (2, 4, 6)
    attention: tuple[Attention, ...] = ("neighborhood", "neighborhood", "global")
    head_dim: tuple[int, ...] = (64, 64, 64)
    kernel_size: int = 7
    mapping_width: int = 768
    mapping_depth: int = 2
    ff_mult: float = 3.0
    depthwise_conv: bool = True
    flavour: Flavour = "latent_pmrf"
    time_convention: TimeConvention = "t"
    mean_conditioned: bool = False
    cosine_attention: bool = False

    def __post_init__(self) -> None:
        """Refuse inconsistent sizes with a message that names the field."""
        _check_sizes(self)
        if not len(self.widths) == len(self.depths) == len(self.attention) == len(self.head_dim):
            raise ValueError("widths, depths, attention and head_dim must have one entry per level")
        for width, head_dim in zip(self.widths, self.head_dim, strict=True):
            if width % head_dim:
                raise ValueError(f"width {width} must be divisible by its head_dim {head_dim}")
            if head_dim % 8:
                raise ValueError(f"head_dim {head_dim} must be a multiple of 8 for the rotary positions")
        if self.flavour == "latent_pmrf" and min(*self.widths, self.mapping_width) * self.ff_mult < 33:
            raise ValueError("widths and mapping_width times ff_mult, rounded to a multiple of 64, must not be 0")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} must be odd")
        for attention in self.attention:
            _check_choice("attention", attention, Attention)
        _check_choice("flavour", self.flavour, Flavour)
        _check_choice("time_convention", self.time_convention, TimeConvention)


NetworkConfig = SwinIRConfig | UNetConfig | SimVAEConfig | HDiTConfig

ESTIMATOR_PRESETS: Mapping[str, SwinIRConfig | UNetConfig] = {
    "published": SwinIRConfig(mask_size=64),
    "xs": SwinIRConfig(
        embed_dim=96,
        depths=(4, 4, 4, 4),
        num_heads=(4, 4, 4, 4),
        upsampler="pixelshuffledirect",
        image_skip=True,
    ),
    "xs-unet": UNetConfig(mirror_average=True),
    "s-unet": UNetConfig(image_size_px=512, widths=(64, 128, 208, 240), mirror_average=True, shrinkage=True),
}

VAE_PRESETS: Mapping[str, SimVAEConfig] = {
    "published": SimVAEConfig(),
    # SD-VAE with as many channels, the last row of the paper's table 2.
    "sd-vae": SimVAEConfig(norm="group", two_norms=True, mid_attention=True, resizing="in_block"),
    "xs": SimVAEConfig(
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        decoder_layers_per_block=2,
        layers_mid_block=1,
        latent_channels=48,
        stem_unshuffle=2,
        linear_skip=True,
    ),
}

VELOCITY_PRESETS: Mapping[str, HDiTConfig] = {
    "published": HDiTConfig(),
    "pmrf-published": HDiTConfig(in_channels=3, patch_size=4, depths=(2, 2, 8), depthwise_conv=False, flavour="pmrf"),
    "xs": HDiTConfig(
        in_channels=48,
        widths=(128, 224, 320),
        depths=(1, 3, 2),
        head_dim=(32, 32, 32),
        mapping_width=256,
        mapping_depth=1,
        ff_mult=2.0,
        mean_conditioned=True,
    ),
    # The inner levels are those of `xs`, for latents of twice the side; attention logits are bounded.
    "s": HDiTConfig(
        in_channels=48,
        widths=(128, 128, 224, 320),
        depths=(2, 1, 3, 2),
        attention=("neighborhood", "neighborhood", "neighborhood", "global"),
        head_dim=(32, 32, 32, 32),
        mapping_width=256,
        mapping_depth=1,
        ff_mult=2.0,
        mean_conditioned=True,
        cosine_attention=True,
    ),
}


def to_dict(config: NetworkConfig) -> dict[str, Any]:
    """Plain values of a specification, for a checkpoint or a manifest."""
    return {"kind": type(config).__name__, **dataclasses.asdict(config)}


def from_dict(values: Mapping[str, Any]) -> NetworkConfig:
    """Inverse of `to_dict`; lists become tuples.

    Raises:
        ValueError: The kind or a field is unknown, or a value is of another type.
    """
    kinds: dict[str, type[Any]] = {cls.__name__: cls for cls in (SwinIRConfig, UNetConfig, SimVAEConfig, HDiTConfig)}
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"unknown network kind {kind!r}; expected one of {sorted(kinds)}")
    config: NetworkConfig = fill(kinds[kind], fields)
    return config


def fill(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from the values of a file: names and types are checked, lists become tuples.

    Raises:
        ValueError: A name or a type is wrong, or the dataclass refuses the values.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown}")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in plain.items():
        check_type(f"{cls.__name__}.{name}", value, hints[name])
    try:
        return cls(**plain)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


def check_type(name: str, value: object, hint: Any) -> None:  # noqa: ANN401 - an annotation
    """Refuse a value that is not of the annotated type, or is no finite number.

    Raises:
        ValueError: It names the value; of a number that was read as text it says how to write it.
    """
    if _fits(value, hint):
        return
    shown = list(value) if isinstance(value, tuple) else value
    number = isinstance(value, str) and _is_number(value)
    advice = "; without a point or in quotes a number is text, write 1.0e-6" if number else ""
    raise ValueError(f"{name} cannot be {shown!r}{advice}")


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - an annotation
    arguments = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if get_origin(hint) is Literal:
        return value in arguments
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        entries = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        return len(entries) == len(value) and all(map(_fits, value, entries))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, get_origin(hint) or hint)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
