"""tlflax: image transfer learning in JAX and Flax.

    import tlflax as tl
    model = tl.classifier("mobilenet_v2_1.0", classes=2)
    run = tl.fit(model, tl.dataset("folder:pets"), stages=[tl.stage("head", epochs=5)])

The names below are imported when first used, so that ``import tlflax`` (and every ``--help``)
does not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlflax.api import classifier, dataset, fit, stage
    from tlflax.comparison.build import compare
    from tlflax.errors import TlflaxError
    from tlflax.predict import Predictor
    from tlflax.result import Run

__version__ = "0.1.0"

_PUBLIC = {
    "classifier": "tlflax.api",
    "dataset": "tlflax.api",
    "stage": "tlflax.api",
    "fit": "tlflax.api",
    "compare": "tlflax.comparison.build",
    "Run": "tlflax.result",
    "Predictor": "tlflax.predict",
    "TlflaxError": "tlflax.errors",
}

__all__ = [
    "Predictor",
    "Run",
    "TlflaxError",
    "__version__",
    "classifier",
    "compare",
    "dataset",
    "fit",
    "stage",
]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tlflax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
