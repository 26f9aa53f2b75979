"""How the functions of a training are compiled on CPU."""

import functools
from typing import Any

import jax

# XLA:CPU hands convolutions to a library (YNNPACK) by default, which is slower than XLA's own
# for batches in parts (`tlflax.train.parts`). Forward passes, images/s with it and without
# (jax 0.10.2, 2 cores with AVX-512): MobileNetV2 at 160 225 and 387, InceptionV3 at 150 to mixed7
# 96 and 129, EfficientNet-B0 at 224 70 and 95, ResNet50 at 160 47 and 53, VGG16 at 150 25 and 26.
# With gradients it is the other way round (full step of ResNet50 10.4 and 6.1 images/s).
_WITHOUT_LIBRARY = {"xla_cpu_experimental_ynn_fusion_type": ""}


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
    wanted = {**(_WITHOUT_LIBRARY if forward else {}), **more}
    return {name: value for name, value in wanted.items() if _known(name, value)} or None
