"""A stage: which rules, which optimizer, for how long."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from tlflax.errors import ConfigError, suggest
from tlflax.policy.optimizer import OPTIMIZERS, SCHEDULES
from tlflax.policy.rules import Rule, parse_rules


@dataclasses.dataclass(frozen=True)
class Stop:
    """When a stage ends early.

    Attributes:
      patience: evaluations without a better validation result, 0 = never.
      targets: ``(metric, sign, value)``, e.g. ``("val_accuracy", ">=", 0.98)``.
    """

    patience: int = 0
    targets: tuple[tuple[str, str, float], ...] = ()

    @property
    def on_training(self) -> list[str]:
        """Targets on what the training images gave, as text."""
        return [f"{m}{s}{v:g}" for m, s, v in self.targets if m in _TRAINING_METRICS]


_STOP_METRICS = ("val_accuracy", "val_loss")
# Legal, because the tutorials do it, and warned of (`tlflax.policy.checks`).
_TRAINING_METRICS = ("train_accuracy", "train_loss")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def parse_stop(stop: object) -> Stop:
    """Reads ``("patience=5", "val_accuracy>=0.98")``.

    Raises:
      ConfigError: another form, or a metric that is not measured during training.
    """
    entries = (stop,) if isinstance(stop, str) else stop or ()
    if not isinstance(entries, list | tuple):
        raise ConfigError(f"stop must be rules such as ('patience=5',), got {stop!r}")
    patience, targets = 0, []
    for entry in entries:
        text = str(entry).replace(" ", "")
        if match := re.fullmatch(r"patience[=:](\d+)", text):
            patience = int(match[1])
        elif match := re.fullmatch(rf"(\w+)(>=|<=)({_NUMBER})", text):
            if match[1] not in _STOP_METRICS + _TRAINING_METRICS:
                raise ConfigError(
                    f"stop rule {entry!r}: stopping looks at validation metrics "
                    f"({', '.join(_STOP_METRICS)}), never at test ones"
                    f"{suggest(match[1], _STOP_METRICS)}"
                )
            targets.append(_target(match[1], match[2], float(match[3]), entry))
        else:
            raise ConfigError(
                f"stop rule {entry!r} is not understood; write 'patience=5', "
                "'val_accuracy>=0.98' or 'val_loss<=0.1'"
            )
    return Stop(patience, tuple(targets))


def _target(metric: str, sign: str, value: float, entry: object) -> tuple[str, str, float]:
    """Refuses targets that are reached at once or never."""
    if metric.endswith("accuracy") and not (sign == ">=" and 0 < value <= 1):
        raise ConfigError(f"stop rule {entry!r}: write '{metric}>=X' with X in (0, 1]")
    if metric.endswith("loss") and not (sign == "<=" and value > 0):
        raise ConfigError(f"stop rule {entry!r}: write '{metric}<=X' with X above 0")
    return metric, sign, value


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      name: shown everywhere.
      epochs: passes over the training images; 0 leaves the stage out.
      train: rules (see `tlflax.policy.rules`); empty trains the head only.
      lr: peak learning rate of parameters with multiplier 1.
      optimizer: ``sgd``, ``momentum``, ``rmsprop``, ``adam``, ``adamw`` or ``nadam``.
      schedule: ``constant``, ``cosine``, ``linear`` (both to zero) or ``one_cycle``.
      warmup: fraction of the steps in which the rate rises from zero.
      weight_decay: on kernels only; decoupled for ``adamw``, added to the gradient for ``sgd``
        and ``momentum``, refused for the others.
      clip: largest global gradient norm over everything trained; 0 = off.
      label_smoothing: in [0, 1).
      bn: ``stored`` or ``train``.
      augment: ``none`` or a random change of the training images: ``flip``, ``flip_crop``,
        ``shift_rotate``, ``keras_idg(...)``, ``keras_layers(...)``, ``randaugment(...)``, with
        arguments as `tlflax.data.augment.make_augment` has them.
      stop: early stopping.
      interpolate: whether the stage ends with the best mixture (on validation) of its first and
        its last weights; what it costs is eleven evaluations.
      accumulate: equal parts that each batch goes through in, one after the other, so that only a
        part's activations are in memory; the update is that of the whole batch (but each part
        draws its own dropout, and with ``bn="train"`` is normalised by its own statistics).
      remat: whether the backward pass computes the inside of each block again instead of keeping
        it from the forward pass: the same gradients in less memory and more time.
      mixup: parameter of the Beta distribution from which each batch's share is drawn (0.2 is
        usual), 0 = off. Rows of a batch are mixed in pairs, and so are their labels. What is mixed
        is what the step begins with: pixels if the first block trains, else the output of the last
        frozen block (mixup of features, "manifold mixup"). Training accuracy counts the label of
        the larger share.
      cutmix: the same for pasting a box of the other image into each (1.0 is usual); above frozen
        blocks the box is cut in their feature maps, and there must be a map to cut. With both on,
        each batch has one of them, with probability 1/2.
      class_weights: ``none``, ``balanced`` (n / (K * n_c) of the training images, as in
        scikit-learn), or a dict from class names to weights; classes it does not name weigh 1. The
        training loss is ``sum(weight * loss) / images``, as in Keras; validation is not weighted.
      sampling: ``shuffle`` (every image once an epoch) or ``balanced`` (as many images an epoch,
        equally many of each class; see `tlflax.data.plan.TrainPlan`).
    """

    name: str
    epochs: int
    train: tuple[Rule, ...] = ()
    lr: float = 1e-3
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.0
    label_smoothing: float = 0.0
    bn: str = "stored"
    augment: str = "none"
    stop: Stop = Stop()
    interpolate: bool = False
    accumulate: int = 1
    remat: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: str | Mapping[str, float] = "none"
    sampling: str = "shuffle"

    @property
    def mixture(self) -> dict[str, Any]:
        """How images and classes are mixed, as far as it is not the default; JSON-able."""
        names = ("mixup", "cutmix", "class_weights", "sampling")
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {n: getattr(self, n) for n in names if getattr(self, n) != defaults[n]}


def _check(stage: Stage) -> None:
    if not isinstance(stage.name, str) or not re.fullmatch(r"[\w .+-]+", stage.name):
        raise ConfigError(
            f"a stage's name is letters, digits, blanks, '.', '+', '-' and '_', got {stage.name!r}"
        )
    where = f"stage {stage.name!r}"
    choices = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "bn": ("stored", "train")}
    choices["sampling"] = ("shuffle", "balanced")
    for field, valid in choices.items():
        value = getattr(stage, field)
        if value not in valid:
            hint = suggest(str(value), valid)
            raise ConfigError(f"{where}: unknown {field} {value!r}{hint} (of {', '.join(valid)})")
    ranges = {
        "epochs": (0, 1e9), "lr": (0, 1e3), "warmup": (0, 1), "weight_decay": (0, 1e3),
        "clip": (0, 1e9), "label_smoothing": (0, 0.999), "mixup": (0, 1e3), "cutmix": (0, 1e3),
    }  # fmt: skip
    for field, (low, high) in ranges.items():
        value = getattr(stage, field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: {field} must be a number, got {value!r}")
        if not low <= value <= high:
            raise ConfigError(f"{where}: {field} must be in [{low:g}, {high:g}], got {value:g}")
    for field in ("interpolate", "remat"):
        value = getattr(stage, field)
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {field} must be True or False, got {value!r}")
    _check_class_weights(stage.class_weights, where)
    parts = stage.accumulate
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ConfigError(
            f"{where}: accumulate must be a whole number from 1 (1 = off), got {parts!r}"
        )
    if not stage.lr:
        raise ConfigError(f"{where}: lr is 0, the stage would change nothing")
    if stage.epochs != int(stage.epochs):
        raise ConfigError(f"{where}: epochs must be a whole number, got {stage.epochs}")
    if stage.weight_decay and stage.optimizer not in ("adamw", "sgd", "momentum"):
        raise ConfigError(f"{where}: weight_decay needs adamw, sgd or momentum")


def _check_class_weights(weights: object, where: str) -> None:
    """The names are checked where the classes are known: `tlflax.policy.imbalance`."""
    if isinstance(weights, str) and weights in ("none", "balanced"):
        return
    if not isinstance(weights, Mapping) or not weights:
        hint = suggest(str(weights), ("none", "balanced"))
        raise ConfigError(
            f"{where}: class_weights must be 'none', 'balanced' or a dict such as "
            f"{{'cat': 2.0}}, got {weights!r}{hint}"
        )
    for name, value in weights.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: class_weights has {name!r}; its keys are class names")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise ConfigError(
                f"{where}: the class weight of {name!r} must be a number above 0, got {value!r} "
                "(classes=... leaves classes out)"
            )


def make_stage(fields: Mapping[str, object]) -> Stage:
    """Builds and checks a stage from a config's dict.

    Raises:
      ConfigError: unknown key or a value outside its range.
      PolicyError: malformed rules.
    """
    known = [f.name for f in dataclasses.fields(Stage)]
    for key in fields:
        if key not in known:
            raise ConfigError(
                f"stage {fields.get('name', '?')!r}: unknown key {key!r}{suggest(key, known)} "
                f"(keys: {', '.join(known)})"
            )
    for key in ("name", "epochs"):
        if key not in fields:
            raise ConfigError(f"stage {fields.get('name', '?')!r} has no {key!r}")
    values = dict(fields)
    values["train"] = parse_rules(values.get("train"))
    stop = values.get("stop", ())
    values["stop"] = stop if isinstance(stop, Stop) else parse_stop(stop)
    weights = values.get("class_weights")
    if isinstance(weights, Mapping):
        values["class_weights"] = dict(weights)
    stage = Stage(**values)  # type: ignore[arg-type]
    _check(stage)
    return stage
