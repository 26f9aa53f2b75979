"""How the functions of a training are compiled on CPU."""

import functools
from typing import Any

import jax

# XLA:CPU hands operations to a library (YNNPACK) by default. Its convolutions and products are
# slower than XLA's own, its sums over maps (gradients of biases and BatchNorm) much faster.
# jax 0.10.2, 2 cores. Forward passes, images/s with the library and without (AVX-512): MobileNetV2
# at 160 225 and 387, InceptionV3 at 150 to mixed7 96 and 129, EfficientNet-B0 at 224 70 and 95,
# ResNet50 at 160 47 and 53, VGG16 at 150 25 and 26. Gradients, milliseconds an image with all of
# it, with none, with its sums alone (AVX2): VGG16 276, 243, 234; ResNet50 145, 171, 131;
# InceptionV3 62, 64, 51.
_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_SUMS = "LIBRARY_FUSION_TYPE_REDUCE"


@functools.cache
def _known(option: str, value: Any) -> bool:
    """Whether this version of XLA has an option; it may be renamed, as its name says."""
    try:
        jax.jit(lambda: 0, compiler_options={option: value}).lower().compile()
    except Exception:  # jaxlib raises its own types, which differ by version.
        return False
    return True


def options(*, forward: bool = False, **more: Any) -> dict[str, Any] | None:
    """Compiler options for `jax.jit` that help on CPU; ``None`` on other backends.

    Args:
      forward: whether the function is a forward pass without gradients.
      **more: further options; one that this version of XLA does not know is left out.
    """
    if jax.default_backend() != "cpu":
        return None
    wanted = {_LIBRARY: "" if forward else _SUMS, **more}
    return {name: value for name, value in wanted.items() if _known(name, value)} or None
