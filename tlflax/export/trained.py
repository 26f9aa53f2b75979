"""What is exported: the best model of a finished run, and how an export of it is judged."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.convert.store import sha256
from tlflax.data.decode import resize
from tlflax.errors import ConvertError
from tlflax.model import Model
from tlflax.predict import Predictor
from tlflax.train.streams import resize_rule
from tlflax.versions import versions_of

# Below it a float32 probability has lost digits, and its logarithm with them.
_SMALLEST = 1e-30


class Trained:
    """A trained classifier of a run directory.

    Attributes:
      path: its model.safetensors.
      predictor: what answers for it.
      model: structure; a head of one sigmoid unit is one of two softmax units here.
      variables: ``{"params": {"backbone", "head"}, "batch_stats": ...}``, NumPy arrays.
    """

    def __init__(self, path: Path):
        self.path = path
        self.predictor = Predictor.open(path)
        self.model: Model = self.predictor.model
        self.variables = self.predictor.variables
        if self.model.architecture.output == "sigmoid":
            self._as_softmax()

    def _as_softmax(self) -> None:
        """Gives a one-unit head its second unit, with zeros: every format then has one head.

        The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)): the answers stay the same.
        """
        head = dict(self.variables["params"]["head"])
        head["logits"] = {
            leaf: np.concatenate([np.zeros_like(w), w], -1) for leaf, w in head["logits"].items()
        }
        params = {**self.variables["params"], "head": head}
        self.variables = {**self.variables, "params": params}
        self.model = Model(dataclasses.replace(self.model.architecture, output="softmax"))

    def backbone(self) -> dict[str, Any]:
        """The backbone's variables, as a chain has them."""
        return {c: v["backbone"] for c, v in self.variables.items() if "backbone" in v}

    def contract(self, inside: bool) -> dict[str, Any]:
        """All a user of the exported file must know, for JSON.

        Args:
          inside: whether the exported network prepares the pixels itself.
        """
        spec, a, facts = self.model.spec, self.model.architecture, self.predictor.facts
        c = dataclasses.asdict(spec.contract)
        pixels = {k: c[k] for k in ("order", "scale", "mean", "std")}
        formula = "(pixels in this channel order * scale - mean) / std, per channel"
        who = "done inside the network: give RGB pixels 0..255" if inside else "not in the network"
        return {
            "classes": list(self.model.classes),
            "image_size": a.image_size,
            "resize": {k: c[k] for k in ("method", "antialias", "fit", "crop_fraction")},
            "preprocessing": {**pixels, "formula": formula, "inside": inside, "note": who},
            "run": {
                "backbone": spec.name,
                "endpoint": self.model.endpoint,
                "head": {k: getattr(a, k) for k in ("head", "hidden", "dropout", "activation")},
                "licence_of_weights": spec.licence,
                "model_sha256": sha256(self.path),
                **{k: facts.get(k) for k in ("weights", "best", "seed", "versions")},
            },
            "exported_with": versions_of("tlflax", "jax", "flax", "numpy"),
        }

    @functools.cached_property
    def _photos(self) -> np.ndarray:
        """Four random images, larger than the network's and not square: ``[4, H, W, 3]``."""
        rng, side = np.random.default_rng(0), self.model.architecture.image_size
        height, width = side + side // 4, side + side // 8
        noise = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        # Large patches too: to many networks all noise looks the same.
        cell = max(1, side // 6)
        patches = rng.integers(0, 256, (2, height // cell + 1, width // cell + 1, 3), np.uint8)
        patches = patches.repeat(cell, 1).repeat(cell, 2)[:, :height, :width]
        return np.concatenate([noise, patches])

    @functools.cached_property
    def images(self) -> np.ndarray:
        """The proof's images as the contract's resize rule makes them, uint8 ``[4, S, S, 3]``."""
        size, rule = self.model.architecture.image_size, resize_rule(self.model)
        return np.stack([resize(photo, size, rule) for photo in self._photos])

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """The run's own probabilities for them ``[4, classes]``."""
        return self.predictor.predict(self._photos).probabilities

    def features(self) -> np.ndarray:
        """The endpoint's output for `images`."""
        import jax

        module = self.model.module()
        run = jax.jit(lambda v, x: module.apply(v, x, method="features"))
        return np.asarray(run(self.variables, self.images))

    def judge(self, found: np.ndarray, tolerance: float, who: str) -> list[str]:
        """Compares the probabilities that a reloaded export gives for `images`.

        Their logarithms decide: a probability's own relative error is that of its logit times
        the logit, so it grows with how sure the network is, and a sure answer hides errors.

        Args:
          found: probabilities of the first images, ``[N, classes]``.
          tolerance: allowed difference of logarithms, relative to the largest reference value.
          who: what gave them.

        Returns:
          What was compared, for printing.

        Raises:
          ConvertError: too far off.
        """
        reference = self.reference[: len(found)]
        if found.shape != reference.shape:
            raise ConvertError(f"{who} answers with {found.shape}, not {reference.shape}")
        logs = [np.log(np.maximum(p, _SMALLEST)) for p in (found, reference)]
        error = relative(*logs)
        if not error <= tolerance:
            raise ConvertError(
                f"{who} does not answer as the run does: relative error {error:.2g} of the log "
                f"probabilities, allowed {tolerance:g}; nothing was written"
            )
        lines = [
            f"{who}: log probabilities of {len(found)} random image(s), relative error "
            f"{error:.1e} (allowed {tolerance:g}); probabilities {relative(found, reference):.1e}"
        ]
        if len(found) > 1 and np.ptp(logs[1], axis=0).max() <= tolerance * np.abs(logs[1]).max():
            lines.append("note: the run answers every random image alike, so this proves little")
        return lines


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute reference value; NaN if any is."""
    worst = float(np.abs(np.asarray(found, np.float64) - reference).max())
    return worst / max(float(np.abs(reference).max()), 1e-30)


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
