import itertools

import numpy as np
import pytest
import torch

from latent_pmrf.nets.attention import (
    DENSE_TOKENS,
    MASKED,
    attend,
    axis_tiling,
    neighborhood_attention,
    neighborhood_mask,
    plan_tiles,
    rotary_frequencies,
    rotary_table,
    rotate,
    tile_side,
)


def qkv(height, width, heads=2, head_dim=8, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.randn(3, batch, heads, height, width, head_dim, generator=generator, dtype=dtype).unbind(0)


def brute_force(q, k, v, kernel, scale):
    """Dense attention whose mask is written query by query, as NATTEN defines its window."""
    height, width = q.shape[2:4]
    seen = torch.zeros(height, width, height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            top = min(max(i - kernel // 2, 0), height - kernel)
            left = min(max(j - kernel // 2, 0), width - kernel)
            seen[i, j, top : top + kernel, left : left + kernel] = True
    logits = q.flatten(2, 3) @ k.flatten(2, 3).mT * scale
    logits = logits.masked_fill(~seen.reshape(height * width, -1), -torch.inf)
    return (logits.softmax(-1) @ v.flatten(2, 3)).view_as(v)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(
    "shape",
    [(7, 7), (7, 30), (9, 11), (16, 16), (16, 24), (24, 16), (32, 32), (17, 19), (40, 8), (20, 28), (8, 40)],
)
def test_neighbourhood_equals_brute_force(shape, kernel):
    q, k, v = qkv(*shape)
    for scale, for_gradients in itertools.product((None, 1.0), (False, True)):
        with torch.set_grad_enabled(for_gradients):
            found = neighborhood_attention(q, k, v, kernel, scale)
        torch.testing.assert_close(found, brute_force(q, k, v, kernel, scale or 8**-0.5), atol=1e-10, rtol=0)


def test_the_sizes_above_take_every_path():
    assert [axis.count for axis in plan_tiles(7, 30, 7)] == [1, 1]  # dense
    assert [axis.count for axis in plan_tiles(16, 16, 7)] == [4, 1]  # bands of whole rows
    assert DENSE_TOKENS < 17 * 19
    assert [axis.count for axis in plan_tiles(17, 19, 7)] == [1, 1]  # primes cannot be cut
    assert [axis.count for axis in plan_tiles(32, 32, 7)] == [8, 4]
    assert [axis.count for axis in plan_tiles(40, 8, 7)] == [10, 1]


def test_a_window_as_large_as_the_map_is_global_attention():
    q, k, v = qkv(7, 7)
    everything = attend(*(x.flatten(2, 3) for x in (q, k, v))).view_as(v)
    torch.testing.assert_close(neighborhood_attention(q, k, v, 7), everything)


def test_what_lies_outside_the_window_has_no_influence():
    q, k, v = qkv(32, 32, dtype=torch.float32)
    before = neighborhood_attention(q, k, v, 7)
    k, v = k.clone(), v.clone()
    k[:, :, 20, 20] += 30
    v[:, :, 20, 20] += 1e6
    changed = (neighborhood_attention(q, k, v, 7) != before).any(-1).any(0).any(0)
    seen = torch.zeros(32, 32, dtype=torch.bool)
    seen[17:24, 17:24] = True
    assert torch.equal(changed, seen)


def test_gradients_equal_those_of_brute_force():
    tensors = [x.requires_grad_() for x in qkv(20, 18)]
    found = torch.autograd.grad(neighborhood_attention(*tensors, 5).square().sum(), tensors)
    expected = torch.autograd.grad(brute_force(*tensors, 5, 8**-0.5).square().sum(), tensors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_map_smaller_than_the_window_is_refused():
    with pytest.raises(ValueError, match="6x9 is smaller than the 7x7"):
        neighborhood_attention(*qkv(6, 9), 7)


@pytest.mark.parametrize(("length", "kernel"), [(32, 7), (24, 3), (40, 5), (16, 7), (14, 7)])
def test_every_query_sees_exactly_its_window(length, kernel):
    rows = axis_tiling(length, kernel, tile_side(length, 8))
    column = axis_tiling(kernel, kernel, kernel)
    mask = neighborhood_mask(rows, column, kernel)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, MASKED}
    assert torch.equal((mask == 0).sum(-1), torch.full(mask.shape[:-1], kernel**2))


def test_masked_weights_are_exactly_zero_even_in_half_precision():
    assert torch.tensor([0.0, MASKED], dtype=torch.float16).softmax(0)[1] == 0


@pytest.mark.parametrize(("length", "side"), [(8, 8), (32, 8), (24, 8), (20, 10), (28, 7), (12, 6), (17, 17), (6, 6)])
def test_tiles_divide_the_map(length, side):
    assert tile_side(length, 8) == side


def test_bfloat16_training_keeps_its_type_and_stays_near():
    q, k, v = qkv(16, 16, dtype=torch.float32)
    halves = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    found = neighborhood_attention(*halves, 7)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), neighborhood_attention(q, k, v, 7), atol=0.05, rtol=0.05)


def test_rotary_frequencies_span_one_decade_over_all_heads():
    freqs = rotary_frequencies(heads=3, head_dim=32)
    assert freqs.shape == (3, 4)
    ordered = np.sort(freqs.ravel())
    np.testing.assert_allclose(ordered, np.pi * 10 ** (np.arange(12) / 12))
    np.testing.assert_allclose(freqs.T.ravel(), ordered)  # interleaved: head after head at each frequency


@pytest.mark.parametrize(("height", "width"), [(4, 6), (6, 4), (5, 5)])
def test_rotary_positions_are_token_centres_scaled_by_the_longer_side(height, width):
    cos, sin = rotary_table(height, width, heads=2, head_dim=16)
    assert cos.shape == sin.shape == (2, height, width, 4)
    freqs = rotary_frequencies(2, 16)
    longer = max(height, width)
    y, x = 1, 3
    by_y, by_x = ((2 * p + 1 - n) / longer * freqs[1] for p, n in ((y, height), (x, width)))
    np.testing.assert_allclose(cos[1, y, x], np.cos(np.concatenate([by_y, by_x])), atol=1e-6)
    np.testing.assert_allclose(sin[1, y, x], np.sin(np.concatenate([by_y, by_x])), atol=1e-6)


def test_rotation_keeps_lengths_and_the_second_half():
    q, _, _ = qkv(6, 8, head_dim=16, dtype=torch.float32)
    turned = rotate(q)
    assert torch.equal(turned[..., 8:], q[..., 8:])
    assert not torch.allclose(turned[..., :8], q[..., :8])
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))


def test_rotated_products_depend_on_the_offset_only():
    q, k = (x[..., :1, :1, :].expand(2, 2, 8, 8, 16) for x in qkv(8, 8, head_dim=16)[:2])
    q, k = rotate(q), rotate(k)
    product = torch.einsum("bhijd,bhkld->bhijkl", q, k)
    torch.testing.assert_close(product[..., 1, 2, 4, 3], product[..., 3, 5, 6, 6], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(product[..., 1, 2, 4, 3], product[..., 1, 2, 3, 4])
