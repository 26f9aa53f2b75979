"""Depthwise convolution.

XLA's CPU backend runs grouped convolutions through a path that is 5-25 times slower than
memory speed. The same sum written as kh*kw shifted multiply-adds fuses into one loop; so do its
gradients, each written in the form that was fastest for its kind of shape (2 cores AVX-512,
batch 16, milliseconds; "automatic" is what `jax.vjp` makes of the forward sum):

| | automatic | here |
|---|---|---|
| kernel, 80x80x32, 3x3, stride 1 | 55 | 12 |
| kernel, 40x40x144, 3x3, 1 | 36 | 9.2 |
| kernel, 28x28x240, 5x5, 1 | 128 | 25 |
| input, 28x28x240, 5x5, 1 | 41 | 6.0 |
| input, 80x80x96, 3x3, 2 | 17 | 12 |
| forward, 80x80x96, 3x3, 2 | 24 | 12 |

Alone, the automatic input gradient is as good for 3x3 and stride 1. Inside a network XLA fuses the
gradient of the activation into its nine padded terms, and it took a third of a MobileNetV2 step.

Other platforms keep the native convolution (`lax.platform_dependent`).
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

# Images added up in one loop before the sum over the rest, by stride. More of them leave less to
# write and read again; the strided loops do not gain after 8.
_ADDENDS = {1: 16, 2: 8}
# Numbers in an image's map above which the slices of a strided convolution are taken from pairs
# of columns: 80x80x96 24 -> 12 ms, but 40x40x144 2.1 -> 2.7 (batch 16). Of an image, not of the
# batch: that may be symbolic (`tlflax.export`), and an image's result must not depend on it.
_PAIRED = 375_000


def _native(x: jax.Array, w: jax.Array, stride: int, padding: str) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _pads(shape, kernel, stride, padding):
    """Zeros at ((top, bottom), (left, right)) of a map ``[B, H, W, C]``."""
    return lax.padtype_to_pads(shape[1:3], kernel, (stride, stride), padding)


def _pad(x, pads):
    zero = x.dtype.type(0)
    return lax.pad(x, zero, [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)])


def _slices(x, kernel, stride):
    """The kh*kw slices of the padded map that a convolution multiplies, by place in the kernel."""
    (kh, kw), (b, h, width, c) = kernel, x.shape
    out_h, out_w = (h - kh) // stride + 1, (width - kw) // stride + 1
    for i in range(kh):
        for j in range(kw):
            limit = (b, i + (out_h - 1) * stride + 1, j + (out_w - 1) * stride + 1, c)
            yield i, j, lax.slice(x, (0, i, j, 0), limit, (1, stride, stride, 1))


def _paired_slices(x, kernel, stride, pads, out):
    """The same slices, taken with step 1 from the map as ``[B, H/s, s, W/s, s*C]``.

    XLA vectorises a loop over neighbouring columns, not one over every second column.
    """
    (kh, kw), (b, h, width, c) = kernel, x.shape
    rows, columns = out[0] + (kh - 1) // stride, out[1] + (kw - 1) // stride
    # Beyond the last row in use there is less than one step of rows, or some to crop.
    bottom, right = rows * stride - h - pads[0][0], columns * stride - width - pads[1][0]
    x = _pad(x, ((pads[0][0], bottom), (pads[1][0], right)))
    x = lax.optimization_barrier(x).reshape(b, rows, stride, columns, stride * c)
    for i in range(kh):
        for j in range(kw):
            (row, p), (column, q) = divmod(i, stride), divmod(j, stride)
            part = x[:, row : row + out[0], p, column : column + out[1], q * c : (q + 1) * c]
            yield i, j, part


def _shifted(x: jax.Array, w: jax.Array, stride: int, padding: str) -> jax.Array:
    kernel = w.shape[:2]
    pads = _pads(x.shape, kernel, stride, padding)
    if stride > 1 and math.prod(x.shape[1:]) > _PAIRED:
        out = [(x.shape[a + 1] + sum(pads[a]) - kernel[a]) // stride + 1 for a in (0, 1)]
        slices = _paired_slices(x, kernel, stride, pads, out)
    else:
        slices = _slices(_pad(x, pads), kernel, stride)
    return sum_of(part * w[i, j, 0] for i, j, part in slices)


def sum_of(terms) -> jax.Array:
    """Adds up one or more arrays, in order."""
    return functools.reduce(lax.add, terms)


def _over_positions(part: jax.Array, g: jax.Array, addends: int) -> jax.Array:
    """Sums ``part * g`` over batch and map: ``[C]``.

    XLA:CPU's reduction over the leading axes is one scalar loop on one core. An elementwise sum
    over groups of images is vectorised and runs on all cores, and what remains is a matrix
    product with ones.
    """
    batch, channels = g.shape[0], g.shape[-1]
    groups = min(batch, addends)
    size = batch // groups
    pieces = [slice(n * size, (n + 1) * size) for n in range(groups)]
    product = sum_of(part[piece] * g[piece] for piece in pieces)
    # The barrier keeps the product out of the loops of whatever follows.
    flat = lax.optimization_barrier(product).reshape(-1, channels)
    total = (jnp.ones((1, flat.shape[0]), flat.dtype) @ flat)[0]
    rest = groups * size
    return total if rest == batch else total + _over_positions(part[rest:], g[rest:], addends)


def _inside(size, out, place, low, stride):
    """Outputs ``first..last`` whose input at ``place`` of the kernel lies on the map, unpadded."""
    first = max(0, -(-(low - place) // stride))
    last = min(out, (size - 1 + low - place) // stride + 1)
    return first, last


def _kernel_gradient(x, g, kernel, stride, padding):
    """Gradient ``[kh, kw, 1, C]`` of the kernel.

    No padded copy: the terms that would meet a zero are left out of each sum.
    """
    pads = _pads(x.shape, kernel, stride, padding)
    channels, addends = x.shape[-1], _ADDENDS.get(stride, 8)
    sums = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            spans, starts = [], []
            for axis, place in ((0, i), (1, j)):
                low = pads[axis][0]
                span = _inside(x.shape[axis + 1], g.shape[axis + 1], place, low, stride)
                spans.append(span)
                starts.append(span[0] * stride + place - low)
            counts = [last - first for first, last in spans]
            if min(counts) <= 0:
                sums.append(jnp.zeros(channels, g.dtype))
                continue
            ends = [s + (n - 1) * stride + 1 for s, n in zip(starts, counts, strict=True)]
            part = lax.slice(x, (0, *starts, 0), (len(x), *ends, channels), (1, stride, stride, 1))
            (top, bottom), (left, right) = spans
            sums.append(_over_positions(part, g[:, top:bottom, left:right], addends))
    return jnp.stack(sums).reshape(*kernel, 1, channels)


def _flipped(g, w, shape, pads):
    """Input gradient for stride 1: the forward sum over ``g`` with the flipped kernel."""
    around = []
    for axis in (0, 1):
        low = w.shape[axis] - 1 - pads[axis][0]
        around.append((low, shape[axis + 1] + w.shape[axis] - 1 - g.shape[axis + 1] - low))
    padded = lax.optimization_barrier(_pad(g, around))
    turned = lax.rev(w, (0, 1))
    return sum_of(part * turned[i, j, 0] for i, j, part in _slices(padded, w.shape[:2], 1))


def _interleaved(g, w, shape, pads, stride):
    """Input gradient for a stride: one sum for each phase, spread over the map and added.

    Row ``r`` of the padded input meets kernel rows ``i`` with ``r = i (mod stride)`` only.
    """
    (kh, kw), (b, _, _, c) = w.shape[:2], shape
    rows = [-(-(shape[a + 1] + pads[a][0]) // stride) for a in (0, 1)]
    reach = [(k - 1) // stride for k in (kh, kw)]
    around = [(reach[a], max(0, rows[a] - g.shape[a + 1])) for a in (0, 1)]
    padded = lax.optimization_barrier(_pad(g, around))
    phases = []
    for p in range(min(stride, kh)):
        for q in range(min(stride, kw)):
            terms = []
            for i in range(p, kh, stride):
                for j in range(q, kw, stride):
                    top, left = reach[0] - i // stride, reach[1] - j // stride
                    part = padded[:, top : top + rows[0], left : left + rows[1]]
                    terms.append(part * w[i, j, 0])
            # Without the barrier each of the terms would be spread by itself.
            phase = lax.optimization_barrier(sum_of(terms))
            spread = [(at, stride - 1 - at, stride - 1) for at in (p, q)]
            zero = phase.dtype.type(0)
            phases.append(lax.pad(phase, zero, [(0, 0, 0), *spread, (0, 0, 0)]))
    top, left = pads[0][0], pads[1][0]
    limit = (b, top + shape[1], left + shape[2], c)
    return lax.slice(sum_of(phases), (0, top, left, 0), limit)


def _input_gradient(g, w, shape, stride, padding):
    """Gradient ``[B, H, W, C]`` of the input."""
    pads = _pads(shape, w.shape[:2], stride, padding)
    if stride == 1:
        return _flipped(g, w, shape, pads)
    return _interleaved(g, w, shape, pads, stride)


def _wide(form, *arrays):
    """``form(*arrays)`` with the sums of a narrow type taken in float32 and rounded once."""
    dtype = arrays[0].dtype
    if jnp.finfo(dtype).bits < 32:
        arrays = [a.astype(jnp.float32) for a in arrays]
    return form(*arrays).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(x: jax.Array, w: jax.Array, stride: int, padding: str) -> jax.Array:
    """Depthwise convolution ``[B, H, W, C], [kh, kw, 1, C] -> [B, H', W', C]``.

    Args:
      x: input.
      w: kernel.
      stride: the same in both directions.
      padding: ``SAME`` or ``VALID``.
    """
    return lax.platform_dependent(
        x,
        w,
        cpu=functools.partial(_shifted, stride=stride, padding=padding),
        default=functools.partial(_native, stride=stride, padding=padding),
    )


def _forward(x, w, stride, padding):
    return depthwise_conv(x, w, stride, padding), (x, w)


def _backward(stride, padding, saved, gradient):
    # A rule of our own: differentiating through platform_dependent itself would keep residuals
    # of the branch that is not taken. Two switches, because compilation removes one whose
    # result nobody asks for: a frozen kernel, or the input of the first trained block.
    x, w = saved
    # Otherwise what comes before is computed again in the loop of each place in the kernel.
    g = lax.optimization_barrier(gradient)

    def input_cpu(g, w):
        return _wide(lambda g, w: _input_gradient(g, w, x.shape, stride, padding), g, w)

    def input_default(g, w):
        return jax.linear_transpose(lambda x: _native(x, w, stride, padding), x)(g)[0]

    def kernel_cpu(x, g):
        x = lax.optimization_barrier(x)
        return _wide(lambda x, g: _kernel_gradient(x, g, w.shape[:2], stride, padding), x, g)

    def kernel_default(x, g):
        return jax.linear_transpose(lambda w: _native(x, w, stride, padding), w)(g)[0]

    return (
        lax.platform_dependent(g, w, cpu=input_cpu, default=input_default),
        lax.platform_dependent(x, g, cpu=kernel_cpu, default=kernel_default),
    )


depthwise_conv.defvjp(_forward, _backward)
