"""2-D convolution that XLA's CPU backend runs well, forward and backward.

`conv_general_dilated` takes the place of `jax.lax.conv_general_dilated` in ``nn.Conv``. On CPU
the forward sum (`tlflax.ops.conv_forward`) and the gradients of input and kernel
(`tlflax.ops.conv_input`, `tlflax.ops.conv_weight`) are written in a form chosen by shape; other
platforms keep the native convolution (`jax.lax.platform_dependent`). What those forms do not cover
(groups, dilation, other layouts, other dtypes, a precision that was asked for) is the native
convolution on every platform.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tlflax.ops import conv_forward, conv_input, conv_weight

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

_LAYOUT = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with the same arguments, value and gradients.

    Args:
      lhs: input; the rewritten forms take float32 ``[B, H, W, I]``.
      rhs: kernel; the rewritten forms take float32 ``[kh, kw, I, O]``.
      window_strides: one number for each spatial axis.
      padding: ``SAME``, ``VALID``, ``SAME_LOWER`` or pairs.
      lhs_dilation: as in `jax.lax`; native unless all ones.
      rhs_dilation: as in `jax.lax`; native unless all ones.
      dimension_numbers: as in `jax.lax`; native unless NHWC, HWIO, NHWC.
      feature_group_count: native unless 1.
      batch_group_count: native unless 1.
      precision: native unless ``None``.
      preferred_element_type: native unless ``None`` or float32.
      **options: what else `jax.lax` takes; native if there is any.
    """
    plain = (
        not options
        and batch_group_count == feature_group_count == 1
        and precision is None
        and preferred_element_type in (None, jnp.float32)
        and lhs.dtype == rhs.dtype == jnp.float32
        and lhs.ndim == rhs.ndim == 4
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and dimension_numbers is not None
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _LAYOUT
        # Anything else than a map and a kernel that fit is the native function's to refuse.
        and lhs.shape[3] == rhs.shape[2]
        and len(window_strides) == 2
        and lhs.size > 0
        and rhs.size > 0
    )
    if plain:
        strides: Strides = (int(window_strides[0]), int(window_strides[1]))
        if isinstance(padding, str):
            padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
        (top, bottom), (left, right) = padding
        pads: Pads = ((int(top), int(bottom)), (int(left), int(right)))
        extent = (lhs.shape[1] + top + bottom, lhs.shape[2] + left + right)
        if min(extent[0] - rhs.shape[0], extent[1] - rhs.shape[1], *strides) >= 0:
            return convolve(lhs, rhs, strides, pads)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **options,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, w: jax.Array, strides: Strides, padding: Pads) -> jax.Array:
    """Convolution ``[B, H, W, I], [kh, kw, I, O] -> [B, H', W', O]``, all float32.

    Args:
      x: input.
      w: kernel.
      strides: vertical and horizontal.
      padding: zeros at ((top, bottom), (left, right)).
    """
    return lax.platform_dependent(
        x,
        w,
        cpu=functools.partial(conv_forward.convolution, strides=strides, padding=padding),
        default=functools.partial(conv_forward.native, strides=strides, padding=padding),
    )


def _forward(x, w, strides, padding):
    return convolve(x, w, strides, padding), (x, w)


def _backward(strides, padding, saved, g):
    # Two switches, not one with both gradients: compilation removes a switch whose result nobody
    # asks for, so that a frozen kernel costs nothing.
    x, w = saved

    def input_cpu(g, w):
        return conv_input.input_gradient(g, w, x.shape, strides, padding)

    def input_default(g, w):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.linear_transpose(lambda x: conv_forward.native(x, w, strides, padding), like)(g)[
            0
        ]

    def weight_cpu(x, g):
        return conv_weight.weight_gradient(x, g, w.shape, strides, padding)

    def weight_default(x, g):
        like = jax.ShapeDtypeStruct(w.shape, w.dtype)
        return jax.linear_transpose(lambda w: conv_forward.native(x, w, strides, padding), like)(g)[
            0
        ]

    return (
        lax.platform_dependent(g, w, cpu=input_cpu, default=input_default),
        lax.platform_dependent(x, g, cpu=weight_cpu, default=weight_default),
    )


convolve.defvjp(_forward, _backward)
