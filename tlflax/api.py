"""The functions of a notebook. They are thin: `tlflax.run.fit` does the work for both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlflax.convert.store import Weights
from tlflax.data.source import Dataset, load_dataset
from tlflax.errors import ConfigError
from tlflax.inside import Inside
from tlflax.model import Architecture, Model
from tlflax.open_model import open_model
from tlflax.photos import Photos
from tlflax.policy.policy import table
from tlflax.policy.stage import Stage, make_stage
from tlflax.result import Run


class Classifier(Inside):
    """A backbone cut at an endpoint, with a head and pretrained weights; not yet trained.

    Made by `classifier`.
    """

    def __init__(self, model: Model, weights: Weights | None, sized: bool):
        self.model, self.weights, self._sized = model, weights, sized

    def endpoints(self) -> list[str]:
        """Names of the blocks up to the cut, in order."""
        return [b.name for b in self.model.blocks]

    def _looked_at(self) -> tuple[Model, dict[str, Any]]:
        variables = self.model.init(0, head_only=self.weights is not None)
        return self.model, self.model.load(variables, self.weights) if self.weights else variables

    def grad_cam(self, images: Any, endpoint: str = "auto", classes: Any = None) -> Any:
        """Not yet: the head is untrained.

        Raises:
          ConfigError: always.
        """
        raise ConfigError(
            "Grad-CAM needs a trained head, and this classifier's says nothing yet: train it with "
            "tl.fit and ask the run that comes back; activations(...) work already"
        )

    def show_grad_cam(self, images: Any, endpoint: str = "auto", classes: Any = None) -> Any:
        """Not yet, like `grad_cam`."""
        return self.grad_cam(images, endpoint, classes)

    def summary(self, **fields: Any) -> None:
        """Prints what a stage with these fields would train (default: the head)."""
        stage = make_stage({"name": "stage", "epochs": 1} | fields)
        print(table(self.model.policy(stage), stage.lr))

    def at(self, data: Dataset, image_size: int) -> Model:
        """The model for a dataset.

        Raises:
          ConfigError: number or names of classes differ.
        """
        names = self.model.classes
        if len(names) != len(data.class_names):
            raise ConfigError(
                f"the classifier has {len(names)} classes, the data {len(data.class_names)} "
                f"({', '.join(data.class_names[:5])})"
            )
        model = self.model
        if image_size and not self._sized and image_size != model.architecture.image_size:
            model = model.resized(image_size)
        return model.with_classes(data.class_names)


def classifier(
    backbone: str,
    *,
    classes: int,
    endpoint: str = "auto",
    weights: str = "official",
    weights_dir: str = "",
    image_size: int = 0,
    head: str = "gap",
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    activation: str = "relu",
    output: str = "softmax",
    preprocessing: str = "auto",
) -> Classifier:
    """Builds a classifier.

    Args:
      backbone: zoo name (`python -m tlflax.zoo`), or the path of a Keras model of your own.
      classes: number of classes.
      endpoint: where to cut; ``auto`` is the last block.
      weights: ``official``, ``none``, or the path of a readable file.
      weights_dir: folder searched for the official file before downloading.
      image_size: side in pixels; 0 takes the dataset's, or the size of the official weights.
      head: ``gap`` or ``flatten``.
      hidden: widths of hidden layers in the head.
      dropout: rate before the logits.
      activation: of the hidden layers.
      output: ``softmax``, or for two classes ``sigmoid``: one unit and binary cross entropy.
      preprocessing: how images are prepared for a Keras model of your own: ``auto``, ``raw``,
        ``unit``, ``unit_bgr``, ``tf``, ``torch``, ``caffe``. A network of the zoo knows its own:
        with another one its report says what is wrong.

    Raises:
      TlflaxError: unknown name, unreadable weights, value out of range.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ConfigError(f"classes must be a number of at least 2, got {classes!r}")
    names = tuple(str(i) for i in range(classes))
    shape = (image_size, head, tuple(hidden), dropout, activation, output)
    model = open_model(Architecture(backbone, endpoint, names, *shape), preprocessing)
    return Classifier(model, model.pretrained(weights, weights_dir or None), bool(image_size))


def dataset(
    source: str,
    *,
    image_size: int = 0,
    val: float | str = 0.2,
    test: float | str = 0.2,
    classes: Sequence[str] = (),
    per_class: int = 0,
    seed: int = 0,
    on_bad_image: str = "error",
    data_dir: str | None = None,
) -> Photos:
    """Opens images.

    Args:
      source: ``folder:PATH``, ``tfds:NAME[/CONFIG]`` or ``digits``.
      image_size: side in pixels at which a network sees them; 0 leaves it to the network.
      val: fraction (or number) of training images for validation, where the source has none;
        ``"test"`` validates on the test images, which is warned of.
      test: the same for testing; ``"val"`` makes the source's own validation images the test.
      classes: subset of class names.
      per_class: training images per class; 0 = all.
      seed: of the validation split and of ``per_class``.
      on_bad_image: ``error`` or ``skip``.
      data_dir: where prepared tfds datasets are.

    Raises:
      DataError: the images cannot be used as they are.
    """
    data = load_dataset(
        source,
        classes=classes,
        per_class=per_class,
        splits={"val": val, "test": test},
        seed=seed,
        on_bad_image=on_bad_image,
        data_dir=data_dir,
    )
    photos = Photos(**{name: getattr(data, name) for name in data.__dataclass_fields__})
    photos.image_size = image_size
    return photos


def stage(name: str, *, epochs: int, **fields: Any) -> Stage:
    """A stage of training; fields as in `tlflax.policy.stage.Stage`.

    Raises:
      TlflaxError: unknown field or value out of range.
    """
    return make_stage({"name": name, "epochs": epochs} | fields)


def fit(
    model: Classifier,
    data: Dataset,
    stages: Sequence[Stage | Mapping[str, Any]],
    *,
    workdir: str | Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    precision: str = "auto",
    select: str = "accuracy",
    cache: str = "auto",
    baseline: bool = False,
    evaluate_start: bool = False,
    evaluate_stages: bool = False,
    look_at: str | Sequence[str] = (),
    grad_cam: str = "auto",
) -> Run:
    """Trains, evaluates once on the test split, writes the report.

    Args:
      model: from `classifier`.
      data: from `dataset`.
      stages: in order.
      workdir: run directory, new or of the same run; a temporary one by default.
      batch_size: images per step.
      seed: of initial values, order, augmentation, dropout.
      precision: of the backbone in training and evaluation: ``float32``, ``bfloat16``, or ``auto``
        (bfloat16 on GPU and TPU, float32 on CPU); weights and the saved model are float32.
      select: ``accuracy`` or ``loss``: what makes a checkpoint the best on validation.
      cache: ``auto`` keeps the output of frozen blocks on disk wherever training is the same,
        ``off`` never, ``views:K`` also with augmentation, in K fixed versions of each image.
      baseline: also train the same network from scratch.
      evaluate_start: also evaluate the pretrained network with its untrained head.
      evaluate_stages: also evaluate what each stage came to.
      look_at: layers or blocks whose outputs for one image the report shows; none for three blocks
        from an early one to the last.
      grad_cam: layer or block of the report's Grad-CAM; ``auto`` is the last block with a map.
    """
    from tlflax import config as configs
    from tlflax import run as runs
    from tlflax.compilation import keep_compiled
    from tlflax.features.caching import Caching
    from tlflax.look_at import where_to_look
    from tlflax.setup import read_stages, scratch_stage

    caching = Caching(cache)
    keep_compiled()
    entries = [s.__dict__ if isinstance(s, Stage) else s for s in stages]
    chosen = read_stages(entries)
    built = model.at(data, getattr(data, "image_size", 0))
    where_to_look(built, look_at, grad_cam)  # before there is a folder
    config = {
        "architecture": vars(built.architecture),
        "data": data.source,
        "fingerprint": data.fingerprint,
        "weights": model.weights.sha256 if model.weights else None,
        "stages": [vars(s) for s in chosen],
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "select": select,
        "cache": cache,
        "baseline": baseline,
        "evaluate_start": evaluate_start,
        "evaluate_stages": evaluate_stages,
        "look_at": [look_at] if isinstance(look_at, str) else list(look_at),
        "grad_cam": grad_cam,
    }
    folder = None if workdir is None else Path(workdir)
    if folder is not None:
        configs.claim(folder, config)
    return runs.fit(
        built,
        data,
        chosen,
        weights=model.weights,
        workdir=folder,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        select=select,
        caching=caching,
        baseline=scratch_stage(chosen) if baseline else None,
        evaluate_start=evaluate_start,
        evaluate_stages=evaluate_stages,
        look_at=look_at,
        grad_cam=grad_cam,
        config=config,
    )
