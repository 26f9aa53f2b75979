"""Compares the forms of the CPU forward convolution, for the limits in `ops/conv_measured.py`.

    python scripts/measure_convolutions.py [--batch 4] [--rounds 8] [--shapes 75x75x64-128k3s1 ...]

Prints one Markdown row per shape: milliseconds per core and, in brackets, of wall time, the
smallest of all rounds, with a bias and ReLU behind as in a network; ``*`` marks the form that is
chosen. The forms take turns, so that a busy machine slows them alike; the CPU time is what to go
by there. A shape is HEIGHTxWIDTHxIN-OUT, then k and the kernel's side (or ROWSxCOLUMNS), s and the
stride; ``v`` behind it means no padding.
"""

import argparse
import os
import re
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlflax.ops import conv_forward
from tlflax.train.compiler import options

# Of VGG16 at 150 px, ResNet50 at 160 and InceptionV3 at 150, those that differ in kind.
_SHAPES = (
    "150x150x3-64k3s1 150x150x64-64k3s1 75x75x64-128k3s1 75x75x128-128k3s1 37x37x256-256k3s1 "
    "18x18x512-512k3s1 9x9x512-512k3s1 166x166x3-64k7s2v 40x40x64-64k3s1 20x20x128-128k3s1 "
    "10x10x256-256k3s1 5x5x512-512k3s1 40x40x64-256k1s1 40x40x256-64k1s1 20x20x512-1024k1s2 "
    "10x10x1024-2048k1s2 5x5x2048-512k1s1 5x5x512-2048k1s1 74x74x32-32k3s1v 35x35x80-192k3s1v "
    "16x16x64-96k3s1 16x16x48-64k5s1 16x16x288-384k3s2v 7x7x160-160k1x7s1 7x7x160-160k7x1s1"
).split()
_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+)-(\d+)k(\d+)(?:x(\d+))?s(\d+)(v?)")


def _forms(kernel: tuple[int, int], stride: int) -> list[conv_forward.Form]:
    forms = [conv_forward.native, conv_forward.columns]
    if kernel == (1, 1):
        forms.append(conv_forward.matmul)
    if kernel == (3, 3) and stride == 1:
        forms.append(conv_forward.tiled)
    return forms


def measure(text: str, batch: int, rounds: int) -> str:
    """One row of the table.

    Args:
      text: a shape, as in the module's docstring.
      batch: images.
      rounds: calls of each form.

    Raises:
      SystemExit: ``text`` is no shape.
    """
    found = _PATTERN.fullmatch(text)
    if not found:
        raise SystemExit(f"{text!r} is not a shape like {_SHAPES[0]} or {_SHAPES[-3]}")
    height, width, channels, features, kh, kw, stride = (int(n or 0) for n in found.groups()[:7])
    kernel, strides = (kh, kw or kh), (stride, stride)
    padding = lax.padtype_to_pads((height, width), kernel, strides, "VALID" if found[8] else "SAME")
    (top, bottom), (left, right) = padding
    pads = ((top, bottom), (left, right))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, height, width, channels), dtype=np.float32))
    w = jnp.asarray(rng.standard_normal((*kernel, channels, features), dtype=np.float32))
    forms = _forms(kernel, stride)

    def run(form, x, w):
        return jnp.maximum(form(x, w, strides, pads) + 1, 0)

    compiled = [
        jax.jit(partial(run, form), compiler_options=options()).lower(x, w).compile()
        for form in forms
    ]
    times = np.zeros((rounds, len(forms), 2))
    for call in compiled:
        jax.block_until_ready(call(x, w))
    for i in range(rounds):
        for j, call in enumerate(compiled):
            cpu, wall = time.process_time(), time.perf_counter()
            jax.block_until_ready(call(x, w))
            spent = time.process_time() - cpu
            times[i, j] = spent / len(os.sched_getaffinity(0)), time.perf_counter() - wall
    best = times.min(0) * 1e3
    chosen = conv_forward.choose(x.shape, w.shape, strides, pads)
    cells = [
        f"{form.__name__}{'*' if form is chosen else ''} {cpu:.1f} ({wall:.1f})"
        for form, (cpu, wall) in zip(forms, best, strict=True)
    ]
    return " | ".join([f"| {text}", *cells]) + " |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--shapes", nargs="+", default=_SHAPES, metavar="SHAPE")
    args = parser.parse_args()
    for text in args.shapes:
        print(measure(text, args.batch, args.rounds), flush=True)


if __name__ == "__main__":
    main()
