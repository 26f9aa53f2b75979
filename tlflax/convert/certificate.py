"""Certificates: what a conversion was compared with, and how far it was off.

``method`` is ``layout`` (every array placed, shapes and counts equal, numbers finite: no outputs
were compared), ``reference`` (outputs stored in a file) or ``keras`` (the live framework).
"""

import datetime
import os
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax import tree
from tlflax.errors import ConvertError, listing
from tlflax.versions import versions_of

if TYPE_CHECKING:
    from tlflax.backbones.chain import Chain
    from tlflax.backbones.spec import Spec


def layout_certificate(variables: Mapping, arrays: int, dropped: list[str]) -> dict[str, Any]:
    """What total loading alone proves."""
    flat = tree.flatten(variables)
    return {
        "method": "layout",
        "statement": (
            f"all {arrays - len(dropped)} arrays placed, all {len(flat)} leaves filled, shapes "
            "equal, numbers finite; outputs not compared"
        ),
        "parameters": tree.count(flat),
        "left_out": dropped,
        "endpoints": {},
        "date": datetime.date.today().isoformat(),
        "versions": versions_of("tlflax", "jax", "flax"),
    }


def _outputs(
    chain: "Chain", variables: Mapping, images: np.ndarray, wanted: Container[str]
) -> dict[str, np.ndarray]:
    """Outputs of the wanted layers, in the order of the chain; XLA drops what comes after them."""
    import jax

    order: list[str] = []

    def run(v, x):
        record: dict = {}
        chain.apply(v, x, record=record)
        order[:] = [name for name in record if name in wanted]
        return {name: record[name] for name in order}

    # Whatever the device, the comparison is in full float32.
    with jax.default_matmul_precision("float32"):
        found = jax.jit(run)(variables, images)
    # jit sorts dicts by key; "first diverging" needs the order of the chain.
    return {name: np.asarray(found[name]) for name in order}


def compare(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], order: list[str]
) -> dict[str, dict[str, float]]:
    """Per endpoint: largest absolute error, and relative to the reference's largest value.

    A reference of shape ``[N, C]`` for a map ``[N, H, W, C]`` is its mean over the map.
    """
    errors = {}
    for name in order:
        if name not in reference or name not in found:
            continue
        a, b = found[name], np.asarray(reference[name])
        if a.ndim == 4 and b.ndim == 2:
            a = a.mean(axis=(1, 2))
        if a.shape != b.shape:
            raise ConvertError(f"reference of {name} is {b.shape}, the network gives {a.shape}")
        worst = float(np.abs(a - b).max())
        errors[name] = {"max_abs": worst, "max_rel": worst / max(float(np.abs(b).max()), 1e-30)}
    return errors


def _certificate(base, method, statement, errors, tolerance, versions) -> dict[str, Any]:
    wrong = [n for n, e in errors.items() if not e["max_rel"] <= tolerance]
    if wrong:
        raise ConvertError(
            f"the converted network differs from its {method} first at {wrong[0]}: relative error "
            f"{errors[wrong[0]]['max_rel']:.2g}, allowed {tolerance:g}"
        )
    return base | {
        "method": method,
        "statement": statement,
        "endpoints": errors,
        "first_diverging": None,
        "tolerance": tolerance,
        "versions": base["versions"] | versions,
    }


def against_reference(
    chain: "Chain", variables: Mapping, base: dict[str, Any], path: Path, tolerance: float = 1e-4
) -> dict[str, Any]:
    """Compares with outputs stored as ``.npz``: ``x`` (uint8 RGB images) and arrays by layer name.

    1e-4 relative: the stored outputs come from another framework's float32 kernels.

    Raises:
      ConvertError: no usable reference, or the first endpoint beyond the tolerance.
    """
    try:
        # Opened here: np.load leaves a damaged file open.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            reference = {k: file[k] for k in file.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ConvertError(f"cannot read reference {path} as .npz: {error}") from error
    images = reference.get("x")
    if images is None or images.dtype != np.uint8 or images.shape[3:] != (3,):
        raise ConvertError(
            f"reference {path} needs an array 'x' with the input images, RGB uint8 [N, H, W, 3]"
        )
    found = _outputs(chain, variables, images, reference)
    errors = compare(found, reference, list(found))
    if not errors:
        raise ConvertError(
            f"reference {path} names no layer of this network: it has {listing(reference)}"
        )
    statement = f"{len(errors)} endpoints compared with {path.name}"
    return _certificate(base, "reference", statement, errors, tolerance, {})


def against_keras(
    spec: "Spec", chain: "Chain", variables: Mapping, base: dict[str, Any], path: Path
) -> dict[str, Any]:
    """Compares every endpoint with `keras.applications` on JAX, given the same weight file.

    1e-5 relative: both sides run the same XLA kernels, only in another order.

    Raises:
      ConvertError: Keras is missing or an endpoint is beyond the tolerance.
    """
    if path.suffix == ".safetensors":
        raise ConvertError(f"--verify needs the Keras file itself, not {path.name}")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise ConvertError("--verify needs Keras: pip install keras") from error
    size = max(spec.min_size, 96)
    model = keras_application(spec, size)
    try:
        model.load_weights(path)
    except (ValueError, OSError) as error:
        raise ConvertError(
            f"Keras cannot load {path.name} into {spec.name} without its classifier, so there is "
            f"nothing to verify against: {str(error).splitlines()[0]}"
        ) from error
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    reference = keras_outputs(model, spec, images)
    found = _outputs(chain, variables, images, reference)
    errors = compare(found, reference, list(found))
    statement = f"{len(errors)} layers compared with keras.applications on a random image pair"
    versions = {"keras": keras.__version__, "keras_backend": keras.backend.backend()}
    return _certificate(base, "keras", statement, errors, 1e-5, versions)


def keras_application(spec: "Spec", size: int):
    """The Keras application that a spec mirrors, without top and with random weights."""
    import keras

    shape = {"include_top": False, "weights": None, "input_shape": (size, size, 3)}
    if spec.name in ("vgg16", "vgg19"):
        return getattr(keras.applications, spec.name.upper())(**shape)
    if spec.name.startswith("mobilenet_v2_"):
        return keras.applications.MobileNetV2(alpha=spec.options["width"], **shape)
    raise ConvertError(f"keras.applications has no {spec.name}")


def keras_outputs(model, spec: "Spec", images: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's output of a Keras application, with Keras' own preprocessing."""
    import keras

    package = "mobilenet_v2" if spec.name.startswith("mobilenet_v2") else spec.name
    prepare = getattr(keras.applications, package).preprocess_input
    layers = [layer for layer in model.layers if layer.__class__.__name__ != "InputLayer"]
    every: Any = keras.Model(model.input, {layer.name: layer.output for layer in layers})
    outputs = every.predict(prepare(images.astype("float32")), verbose=0)
    # predict() sorts the names; the first layer that differs is told by the network's order.
    return {layer.name: np.asarray(outputs[layer.name]) for layer in layers}
