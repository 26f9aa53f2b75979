"""The naming schemes of weights, and which module converts each (see `Spec.form`).

A form's module has two functions:

    convert(arrays, target, spec, what) -> (variables, left_out)
    counted(name, spec) -> bool

``convert`` is total (see `tlflax.convert.load`); ``counted`` says whether a source array is one
of the network's own parameters, as `Spec.parameters` counts them.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.errors import ConvertError

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

_MODULES = {
    "keras": "tlflax.convert.keras_form",
    "torch": "tlflax.convert.torch_form",
    "hub": "tlflax.convert.hub_form",
}
# Who runs the original network for `--verify`.
_ORACLES = {
    "keras": "tlflax.convert.oracle_keras",
    "torch": "tlflax.convert.oracle_torch",
    "hub": "tlflax.convert.oracle_hub",
    "graph": "tlflax.convert.oracle_graph",
}

Oracle = Callable[..., tuple[Mapping[str, np.ndarray], dict[str, str]]]


def form(name: str) -> Any:
    """The module of a form."""
    return importlib.import_module(_MODULES[name])


def oracle(spec: "Spec") -> Any:
    """The module that runs the source framework's network.

    Raises:
      ConvertError: none does.
    """
    if spec.form not in _ORACLES:
        raise ConvertError(f"--verify cannot run the original of {spec.name}; use --reference")
    return importlib.import_module(_ORACLES[spec.form])
