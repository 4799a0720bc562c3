"""Attention over token maps with axial rotary positions, global or restricted to a neighbourhood.

The neighbourhood is NATTEN's (Hassani et al., 2023): every query sees `kernel x kernel` keys, in a window that is
shifted inside the map at its borders. Here it runs on ordinary dense attention: the map is cut into tiles of queries,
each tile sees the rectangle of keys that its windows cover, and a static mask removes the others.

Masks, indices and rotations depend on sizes alone and are cached, outside of inference mode, so that a training may
follow an evaluation. The first call of a size must not come from inside `torch.export`: its kind of tensor would stay.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -1e4
"""Added to the logits of keys outside the window: exp() of it is exactly 0, and it is finite in half precision."""

TILE = (4, 8)
"""Rows and columns of queries: 4 x 8 need 29 % fewer logits than 8 x 8 and take less time (measured)."""
BAND = 4
DENSE_TOKENS = 256
"""Up to this many tokens bands of `BAND` whole rows are faster than tiles, whose halos cover such a map (measured)."""


@dataclass(frozen=True, slots=True)
class AxisTiling:
    """How one side of a map is cut into tiles of queries and overlapping runs of keys.

    Attributes:
        tile: Queries per tile.
        starts: First key of each tile.
        span: Keys per tile.
    """

    tile: int
    starts: tuple[int, ...]
    span: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.starts)

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Lay the runs of keys of all tiles one after another along `dim` (length `count * span`)."""
        if self.count == 1:
            return x
        cuts = sorted({edge for start in self.starts for edge in (start, start + self.span)})
        pieces = x.split([end - start for start, end in itertools.pairwise(cuts)], dim)
        runs = [range(cuts.index(start), cuts.index(start + self.span)) for start in self.starts]
        return torch.cat([pieces[i] for run in runs for i in run], dim)


@functools.lru_cache(maxsize=64)
def axis_tiling(length: int, kernel: int, tile: int) -> AxisTiling:
    """Cut `length` tokens into tiles of `tile`, which divides it; one tile covers all if its keys would too."""
    span = tile + kernel - 1
    if span >= length:
        return AxisTiling(tile=length, starts=(0,), span=length)
    starts = tuple(min(max(first - kernel // 2, 0), length - span) for first in range(0, length, tile))
    return AxisTiling(tile=tile, starts=starts, span=span)


def tile_side(length: int, aim: int) -> int:
    """Divisor of `length` nearest to `aim`, or `length` itself when none is of a useful size."""
    divisors = [side for side in range(aim // 2, 2 * aim) if length % side == 0]
    return min(divisors, key=lambda side: abs(side - aim), default=length)


def plan_tiles(height: int, width: int, kernel: int) -> tuple[AxisTiling, AxisTiling]:
    """Tiling of the rows and of the columns of a map."""
    if height * width <= DENSE_TOKENS:
        band = BAND if height % BAND == 0 else height
        return axis_tiling(height, kernel, band), axis_tiling(width, kernel, width)
    rows, cols = (tile_side(length, aim) for length, aim in zip((height, width), TILE, strict=True))
    return axis_tiling(height, kernel, rows), axis_tiling(width, kernel, cols)


def _axis_windows(tiling: AxisTiling, kernel: int) -> np.ndarray:
    """Whether a query of a tile sees a key of its run along one axis, bool (tiles, queries, keys)."""
    length = tiling.count * tiling.tile
    query = np.arange(length)
    first = np.clip(query - kernel // 2, 0, length - kernel).reshape(tiling.count, tiling.tile, 1)
    key = np.asarray(tiling.starts)[:, None, None] + np.arange(tiling.span)
    return (key >= first) & (key < first + kernel)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)
def neighborhood_mask(rows: AxisTiling, cols: AxisTiling, kernel: int, depth: float = MASKED) -> Tensor:
    """Additive mask of all tiles, 0 or `depth`, float32 (1, tiles, queries, keys), tiles in row-major order."""
    by_row, by_col = _axis_windows(rows, kernel), _axis_windows(cols, kernel)
    seen = by_row[:, None, :, None, :, None] & by_col[None, :, None, :, None, :]
    seen = seen.reshape(1, rows.count * cols.count, rows.tile * cols.tile, rows.span * cols.span)
    return torch.from_numpy(np.where(seen, 0.0, depth).astype(np.float32))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _key_index(rows: AxisTiling, cols: AxisTiling) -> Tensor:
    """Places in the row-major map of the keys of all tiles, int64 (tiles * keys,)."""
    row, col = (np.asarray(tiling.starts)[:, None] + np.arange(tiling.span) for tiling in (rows, cols))
    width = cols.count * cols.tile
    return torch.from_numpy((row[:, None, :, None] * width + col[None, :, None, :]).reshape(-1))


def _tile_keys(x: Tensor, rows: AxisTiling, cols: AxisTiling) -> Tensor:
    """The keys of all tiles of (B, heads, H, W, d): (B * heads, tiles, keys, d).

    One gather of whole vectors takes a third of the time of `split` and `cat`; but the gradients of these
    are as fast as they are themselves, and that of a gather is a scatter.
    """
    if rows.count * cols.count == 1 or torch.is_grad_enabled():
        return _tile(cols.gather(rows.gather(x, 2), 3), rows.count, cols.count)
    b, heads, h, w, d = x.shape
    keys = x.reshape(b * heads, h * w, d).index_select(1, _key_index(rows, cols).to(x.device))
    return keys.reshape(b * heads, rows.count * cols.count, rows.span * cols.span, d)


def _tile(x: Tensor, rows: int, cols: int) -> Tensor:
    """Cut (B, heads, H, W, d) into `rows x cols` equal tiles: (B * heads, tiles, tokens, d)."""
    b, heads, h, w, d = x.shape
    if cols > 1:
        x = x.reshape(b * heads, rows, h // rows, cols, w // cols, d).transpose(2, 3)
    return x.reshape(b * heads, rows * cols, (h // rows) * (w // cols), d)


def neighborhood_attention(  # noqa: PLR0913 - attention, its window and its mask
    q: Tensor, k: Tensor, v: Tensor, kernel: int, scale: float | None = None, mask_depth: float = MASKED
) -> Tensor:
    """Attention in which every query sees the `kernel x kernel` keys of its clamped window.

    Args:
        q: Queries (B, heads, H, W, d).
        k: Keys, same shape.
        v: Values, same shape.
        kernel: Side of the window, odd and at most H and W.
        scale: Factor of the logits; None is `d ** -0.5`.
        mask_depth: Added to the logits of keys outside the window.

    Returns:
        (B, heads, H, W, d).

    Raises:
        ValueError: The map is smaller than the window.
    """
    b, heads, h, w, d = q.shape
    if min(h, w) < kernel:
        raise ValueError(f"a token map of {h}x{w} is smaller than the {kernel}x{kernel} neighbourhood")
    rows, cols = plan_tiles(h, w, kernel)
    mask = neighborhood_mask(rows, cols, kernel, mask_depth).to(device=q.device, dtype=q.dtype)
    q = _tile(q, rows.count, cols.count)
    k, v = (_tile_keys(x, rows, cols) for x in (k, v))
    y = attend(q, k, v, mask, scale)  # (B * heads, tiles, tokens, d)
    if cols.count > 1:
        y = y.reshape(b * heads, rows.count, cols.count, rows.tile, cols.tile, d).transpose(2, 3)
    return y.reshape(b, heads, h, w, d)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention on (B, heads, N, d), in float32 where bfloat16 would be slower.

    The backward pass of PyTorch's bfloat16 attention for CPUs takes two to four times as long as the float32 one.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled() and q.requires_grad:
        with torch.autocast("cpu", enabled=False):
            mask = None if mask is None else mask.float()
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=scale)
        return y.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def rotary_table(height: int, width: int, heads: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles (Crowson et al., 2024, section 4; PMRF@b6f16a4).

    Token centres span [-1, 1] along the longer side; the first half of the angles turns with y, the second with x.

    Returns:
        Two float32 tensors (heads, height, width, head_dim / 4).
    """
    freqs = rotary_frequencies(heads, head_dim)
    longer = max(height, width)
    y, x = (((2 * np.arange(length) + 1 - length) / longer) for length in (height, width))
    by_y = np.broadcast_to((y[:, None] * freqs[:, None, :])[:, :, None, :], (heads, height, width, head_dim // 8))
    by_x = np.broadcast_to((x[:, None] * freqs[:, None, :])[:, None, :, :], (heads, height, width, head_dim // 8))
    theta = np.concatenate((by_y, by_x), axis=-1)
    return torch.from_numpy(np.cos(theta).astype(np.float32)), torch.from_numpy(np.sin(theta).astype(np.float32))


def rotary_frequencies(heads: int, head_dim: int) -> np.ndarray:
    """Angular frequencies from pi to 10 pi, interleaved over the heads, float64 (heads, head_dim / 8)."""
    steps = head_dim // 8
    exponent = np.arange(heads * steps).reshape(steps, heads).T / (heads * steps)
    return np.pi * 10.0**exponent


def rotate(x: Tensor) -> Tensor:
    """Turn the first half of the channels of (..., heads, H, W, d) by the angles of their position."""
    heads, height, width, d = x.shape[-4:]
    cos, sin = (table.to(device=x.device, dtype=x.dtype) for table in rotary_table(height, width, heads, d))
    a, b, rest = x.split((d // 4, d // 4, d // 2), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
