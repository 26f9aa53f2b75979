"""Predict with a finished run: `python -m tlflax.predict RUN_DIR IMAGE_OR_FOLDER... [--out FILE]`.

Needs the run directory's model.safetensors and nothing else: no dataset, no pretrained weights.
Images in a folder named like a class count as labelled with it, and the accuracy is printed.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from tlflax.command import run_command
from tlflax.compilation import keep_compiled
from tlflax.errors import ConfigError, ConvertError, DataError
from tlflax.given import Given
from tlflax.inside import Inside
from tlflax.output import check_out, writing


class Predictor(Inside):
    """A trained classifier read from a run directory.

    Attributes:
      classes: class names in label order.
      facts: metadata of model.safetensors.
      variables: ``{"params": ..., "batch_stats": ...}`` of the classifier.
    """

    def __init__(self, path: Path):
        from tlflax.convert.load import take
        from tlflax.convert.tensors import load_variables
        from tlflax.model import Architecture, Model
        from tlflax.train.step import make_eval_step

        self.variables, self.facts = load_variables(path)
        if "architecture" not in self.facts:
            raise ConvertError(f"{path} holds a backbone without head; give a run directory")
        fields = dict(self.facts["architecture"])
        fields |= {k: tuple(fields[k]) for k in ("classes", "hidden")}
        self.model = Model(Architecture(**fields))
        self.classes: tuple[str, ...] = self.model.classes
        self.variables.setdefault("batch_stats", {})
        take(self.variables, self.model.abstract, str(path))
        self._evaluate = make_eval_step(self.model.module())

    @classmethod
    def open(cls, run_dir: str | Path) -> "Predictor":
        """Opens a run directory (or a model.safetensors file).

        Raises:
          ConfigError: there is no model in it.
        """
        path = Path(run_dir)
        path = path / "model.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"{path} does not exist: give the directory of a finished run")
        return cls(path)

    def predict(self, images: Any, batch_size: int = 32, on_bad_image: str = "error"):
        """Predicts.

        Args:
          images: RGB uint8 ``[N, H, W, 3]``, Pillow images, or paths of image files and folders.
          batch_size: images per step.
          on_bad_image: ``error``, or ``skip`` (noted in ``skipped`` of this object).

        Returns:
          `tlflax.evaluate.metrics.Predictions`, in the order given.

        Raises:
          DataError: no image, an unreadable one, or an array of another kind.
        """
        from tlflax.evaluate.metrics import Predictions

        given = Given(images, self.model)
        self.skipped: list[str] = []
        batch_size = min(batch_size, len(given))
        kept, rows = [], []
        for first in range(0, len(given), batch_size):
            batch = []
            for i in range(first, min(first + batch_size, len(given))):
                try:
                    batch.append(given.pixels(i))
                except DataError as error:
                    if on_bad_image != "skip":
                        raise DataError(f"{error} (--on_bad_image=skip leaves it out)") from error
                    self.skipped.append(str(error))
                    continue
                kept.append(i)
            if batch:
                rows.append(self._run(np.stack(batch), batch_size))
        if not rows:
            raise DataError("no readable image among the given ones")
        files, labels = [given.files[i] for i in kept], given.labels[kept]
        return Predictions(files, labels, np.concatenate(rows))

    def _run(self, batch: np.ndarray, rows: int) -> np.ndarray:
        # Always the same shape, so that the step is compiled once.
        padded = np.zeros((rows, *batch.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        return self.classify(padded)[: len(batch)]

    def classify(self, batch: np.ndarray) -> np.ndarray:
        """Probabilities ``[B, K]`` of uint8 pixels ``[B, H, W, 3]`` of the network's own size."""
        return np.exp(np.asarray(self._evaluate(self.variables, {"image": batch})))


def main(argv: list[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser("tlflax.predict", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run_dir", help="directory of a finished run")
    parser.add_argument("images", nargs="+", help="image files and folders")
    parser.add_argument("--out", default="predictions.csv", help="CSV to write")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--on_bad_image", choices=("error", "skip"), default="error")
    args = parser.parse_args(argv[1:])
    if args.batch_size < 1:
        raise ConfigError(f"--batch_size must be at least 1, got {args.batch_size}")
    out = check_out(args.out)
    keep_compiled()
    predictor = Predictor.open(args.run_dir)
    found = predictor.predict(args.images, args.batch_size, args.on_bad_image)
    from tlflax.evaluate.metrics import summarise, write_predictions

    with writing(out):
        write_predictions(out, found, predictor.classes)
    for line in predictor.skipped:
        print(f"skipped: {line}")
    for file, row in list(zip(found.files, found.probabilities, strict=True))[:10]:
        print(f"{file}  {predictor.classes[int(row.argmax())]}  {row.max():.3f}")
    if len(found.files) > 10:
        print(f"... {len(found.files) - 10} more")
    known = found.labels >= 0
    if known.any():
        s = summarise(found, predictor.classes)
        low, high = s["accuracy_ci95"]
        print(f"accuracy {s['accuracy']:.4f} (95% interval {low:.3f}-{high:.3f}, n={s['n']})")
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_command(main)
