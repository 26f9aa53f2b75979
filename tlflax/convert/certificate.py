"""Certificates: what a conversion was compared with, and how far it was off.

``method`` is ``layout`` (every array placed, shapes and counts equal, numbers finite: no outputs
were compared), ``reference`` (outputs stored in a file) or the live framework: ``keras``,
``torch``, ``hub``, or ``graph`` (a user's own model in Keras).
"""

import datetime
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax import tree
from tlflax.convert.forms import oracle
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


def outputs(
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


# Names under which a stored array is the output of the whole network.
_ENDS = ("logits", "probs")


def _with_end(
    found: dict[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Adds the last output under the reference's name for it, as logits or probabilities."""
    last = list(found.values())[-1]
    if last.ndim != 2:
        return found
    end = {name: last for name in _ENDS if name in reference and name not in found}
    if "probs" in end and not np.allclose(last.sum(axis=1), 1, atol=1e-3):
        shifted = np.exp(last - last.max(axis=1, keepdims=True))
        end["probs"] = shifted / shifted.sum(axis=1, keepdims=True)
    return found | end


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

    ``logits`` and ``probs`` mean the last output of the network, if no layer is called so.

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
    images = reference.pop("x", None)
    reference.pop("files", None)
    if images is None or images.dtype != np.uint8 or images.shape[3:] != (3,):
        raise ConvertError(
            f"reference {path} needs an array 'x' with the input images, RGB uint8 [N, H, W, 3]"
        )
    wanted = {*reference, tuple(chain)[-1]}
    found = _with_end(outputs(chain, variables, images, wanted), reference)
    errors = compare(found, reference, list(found))
    if not errors:
        raise ConvertError(
            f"reference {path} names no layer of this network: it has {listing(reference)} "
            f"({' and '.join(_ENDS)} mean the network's last output)"
        )
    statement = f"{len(errors)} endpoints compared with {path.name}"
    return _certificate(base, "reference", statement, errors, tolerance, {})


def against_framework(
    spec: "Spec", chain: "Chain", variables: Mapping, base: dict[str, Any], path: Path
) -> dict[str, Any]:
    """Compares every endpoint with the source framework, given the same weight file.

    1e-5 relative, or what the oracle states: the same float32 sums in another order.

    Raises:
      ConvertError: the framework is missing or an endpoint is beyond the tolerance.
    """
    if path.suffix == ".safetensors" and spec.form != "torch":
        raise ConvertError(f"--verify needs the source's own file, not {path.name}")
    source = oracle(spec)
    # A user's own network may take one size only.
    size = spec.size if spec.form == "graph" else max(spec.min_size, 96)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    reference, versions = source.outputs(spec, path, images)
    found = outputs(chain, variables, images, reference)
    errors = compare(found, reference, list(found))
    statement = f"{len(errors)} layers compared with {source.NAME} on a random image pair"
    return _certificate(base, spec.form, statement, errors, source.TOLERANCE, versions)
