"""A zip that needs only jax: the classifier as StableHLO for CPU, CUDA and TPU, and its contract.

    function.jax_export   `jax.export` bytes: uint8 RGB [b, S, S, 3] -> float32 probabilities
                          [b, classes], for any b; the weights are constants in it
    contract.json         image size, resize rule, class names, where the run's weights are from

With tlflax: ``load("model.stablehlo.zip")(images)``. Without:
``jax.export.deserialize(zipfile.ZipFile(path).read("function.jax_export")).call(images)``.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlflax.errors import ConvertError, DataError

if TYPE_CHECKING:
    from tlflax.export.trained import Trained

DEFAULT_NAME = "model.stablehlo.zip"
SUFFIXES = (".zip",)
PLATFORMS = ("cpu", "cuda", "tpu")
# The same program on the same device.
TOLERANCE = 1e-5
_FORMAT = "tlflax stablehlo 1"
_FUNCTION, _CONTRACT = "function.jax_export", "contract.json"


class Bundle:
    """A loaded export.

    Attributes:
      contract: content of contract.json.
      classes: class names in the order of the probabilities.
      image_size: side of the images in pixels.
    """

    def __init__(self, function: Any, contract: dict[str, Any]):
        import jax

        self.contract = contract
        self.classes = tuple(contract["classes"])
        self.image_size: int = contract["image_size"]
        self._call = jax.jit(function.call)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities ``[b, classes]`` of RGB uint8 ``images [b, image_size, image_size, 3]``.

        Raises:
          DataError: images of another kind; resizing them is the caller's part.
        """
        images, side = np.asarray(images), self.image_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3):
            raise DataError(
                f"images must be RGB uint8 [b, {side}, {side}, 3], got {images.dtype} "
                f"{list(images.shape)}; resize them as contract['resize'] says"
            )
        return np.asarray(self._call(images))


def load(path: str | Path) -> Bundle:
    """Opens an exported zip; of all that tlflax depends on, only jax and flatbuffers are needed.

    Raises:
      ConvertError: no such file, or it is no export of this kind.
    """
    from jax import export

    try:
        with zipfile.ZipFile(path) as archive:
            contract = json.loads(archive.read(_CONTRACT))
            serialised = archive.read(_FUNCTION)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConvertError(f"cannot read {path} as a StableHLO export: {error}") from error
    if not isinstance(contract, dict) or contract.get("format") != _FORMAT:
        raise ConvertError(f"{path} has no contract of the kind {_FORMAT!r}: export the run again")
    try:
        # A bytearray: what jax.export.Exported.serialize gave.
        function = export.deserialize(bytearray(serialised))
    except Exception as error:  # damaged flatbuffers raise whatever their reader stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConvertError(
            f"this jax cannot read the function in {path}: {reason}; it was made with jax "
            f"{contract['exported_with'].get('jax')}"
        ) from error
    return Bundle(function, contract)


def check(trained: "Trained") -> None:
    """Every network has this form."""


def write(trained: "Trained", path: Path) -> None:
    """Exports with a symbolic batch size, for all of `PLATFORMS`.

    Raises:
      ConvertError: flatbuffers, which jax serialises with, is missing.
    """
    import jax
    import jax.numpy as jnp
    from jax import export

    module, variables = trained.model.module(), trained.variables

    def probabilities(images):
        # Behind the barrier XLA cannot fold constants into one another: the sums stay the run's
        # (measured on MobileNetV2: 1e-7 from it, without 8e-6; the speed is the same).
        logits: Any = module.apply(jax.lax.optimization_barrier(variables), images)
        return jax.nn.softmax(logits)

    side = trained.model.architecture.image_size
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    with _no_source_lines():
        exported = export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    try:
        serialised = exported.serialize()
    except ImportError as error:
        raise ConvertError(f"jax.export needs flatbuffers: {error}; pip install it") from error
    contract = {
        "format": _FORMAT,
        **trained.contract(inside=True),
        "input": {"dtype": "uint8", "shape": ["b", side, side, 3], "channels": "RGB"},
        "output": {"dtype": "float32", "shape": ["b", len(trained.model.classes)],
                   "meaning": "softmax probabilities, in the order of classes"},
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        # Default dates (1980): equal models are equal files.
        text = json.dumps(contract, indent=1)
        archive.writestr(zipfile.ZipInfo(_CONTRACT), text)
        archive.writestr(zipfile.ZipInfo(_FUNCTION), bytes(serialised))


@contextlib.contextmanager
def _no_source_lines() -> Iterator[None]:
    """Keeps this machine's paths out of the file: jax writes a stack trace beside every operation.

    The names of the layers stay. Equal models are equal files then, whoever exports them.
    """
    import jax

    name = "jax_traceback_in_locations_limit"
    before = jax.config.values[name]
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def prove(trained: "Trained", path: Path) -> list[str]:
    """Reads the zip again and compares, for a batch and for one image.

    Raises:
      ConvertError: the answers differ by more than `TOLERANCE`.
    """
    import jax

    bundle = load(path)
    device = jax.devices()[0].platform
    who = f"reloaded with jax {jax.__version__} on {device}"
    lines = trained.judge(bundle(trained.images), TOLERANCE, who)
    lines += trained.judge(bundle(trained.images[:1]), TOLERANCE, who)
    others = [p for p in PLATFORMS if p not in (device, "cuda" if device == "gpu" else "")]
    return [*lines, f"exported for {', '.join(others)} too; not run there"]
