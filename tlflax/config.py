"""Configs: the keys, their defaults, and how a config file becomes plain values.

A config file starts from `base` and changes what it needs. `base` is locked, so a misspelt key
in the file is an error; keys of a config's own (a number that people will want to override, used
in `stages` through ``config.get_ref``) are added inside ``with config.unlocked():``.
"""

import contextlib
import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections.config_dict import FieldReference

from tlflax.atomic import replacing
from tlflax.errors import ConfigError, suggest
from tlflax.folders import STUDY

DEFAULTS: dict[str, Any] = {
    # Data. folder:PATH | tfds:NAME[/CONFIG] | digits
    "data": "",
    "data_dir": "",  # where prepared tfds datasets are
    # Cut only where the source has no such split; a fraction or a number of images. test="val":
    # its own validation images are the test images. val="test": the test images validate as well,
    # which is wrong, and warned of.
    "data_splits": {"val": 0.2, "test": 0.2},
    "classes": (),  # subset of class names, () = all
    "per_class": 0,  # training images per class, 0 = all
    "on_bad_image": "error",  # or "skip": leave it out and record it
    "image_size": 0,  # pixels, 0 = the size the weights were trained at
    # Default of stages that set none: flip, flip_crop, keras_idg(rotation_range=40, ...), ...
    "augment": "none",
    # Network.
    "backbone": "",  # zoo name, or the path of a Keras model of your own
    "endpoint": "auto",
    "weights": "official",  # official | none | PATH
    "weights_dir": "",
    # Of an own model: raw, unit, unit_bgr, tf, torch, caffe. A network of the zoo knows its own.
    "preprocessing": "auto",
    "head": "gap",  # or flatten
    "hidden": (),
    "dropout": 0.0,
    "activation": "relu",
    "output": "softmax",  # or "sigmoid": one unit, for two classes
    # Training.
    "stages": (),
    "batch_size": 32,
    "seed": 0,
    "precision": "auto",  # of the backbone: bfloat16 on GPU and TPU, float32 on CPU; or one of them
    "select": "accuracy",  # the best checkpoint on validation: by accuracy, or by "loss"
    # Output of frozen blocks is computed once and kept on disk: "auto" = wherever training is the
    # same, "off" = never, "views:K" = also with augmentation, in K fixed versions of each image.
    "cache": "auto",
    "cache_gb": 20.0,  # largest size of it on disk; what was not used for longest is deleted
    "cache_dtype": "float32",  # or "bfloat16": half the space, no longer the same to the last bit
    # Also evaluate the start (pretrained blocks, untrained head), and what each stage came to.
    "evaluate_start": False,
    "evaluate_stages": False,
    "baseline": False,  # also train the same network from scratch
    "baseline_epochs": 0,  # 0 = as many as all stages together
    "baseline_lr": 1e-3,
    # Pictures of the report: layers or blocks whose outputs are shown, () = three of the blocks;
    # and the one of Grad-CAM, "auto" = the last block that has a map.
    "look_at": (),
    "grad_cam": "auto",
    # Several runs instead of one, compared at the end: {"name": ..., KEY: value, ...} changes
    # these keys of the config for one of them (tlflax/study.py).
    "runs": (),
}

# Smallest values, and what 0 means.
_LOWEST = {
    "per_class": (0, " (0 = all)"),
    "image_size": (0, " (0 = the size of the weights)"),
    "batch_size": (1, ""),
    "seed": (0, ""),
    "baseline_epochs": (0, " (0 = as many as all stages)"),
}
_CHOICES = {
    "precision": ("auto", "float32", "bfloat16"),
    "select": ("accuracy", "loss"),
    "on_bad_image": ("error", "skip"),
}


def base(**changes: Any) -> ml_collections.ConfigDict:
    """Default config, locked, with ``changes`` applied.

    Raises:
      ConfigError: a change names no key.
    """
    for key in changes:
        if key not in DEFAULTS:
            raise ConfigError(f"unknown config key {key!r}{suggest(key, DEFAULTS)}")
    config = ml_collections.ConfigDict(DEFAULTS | changes)
    if isinstance(config.data_splits, ml_collections.ConfigDict):
        # A fraction, a number of images or the name of a split: on the command line
        # `data_splits.val=0.2` is read as what it is, not as what it replaces.
        for name, amount in config.data_splits.items():
            config.data_splits[name] = FieldReference(amount, field_type=object)
    config.lock()
    return config


def variant(arg: str | None, variants: Iterable[str]) -> str:
    """The variant that the argument of a config (``configs/NAME.py:ARG``) names.

    Args:
      arg: as ``get_config`` got it; empty for the first variant.
      variants: names, in order.

    Raises:
      ConfigError: there is no such variant.
    """
    names = tuple(variants)
    if arg and arg not in names:
        raise ConfigError(
            f"unknown variant {arg!r}{suggest(arg, names)} (variants: {', '.join(names)})"
        )
    return arg or names[0]


def plain(value: Any) -> Any:
    """Resolves ConfigDicts and FieldReferences, inside tuples and dicts too."""
    if isinstance(value, FieldReference):
        return plain(value.get())
    if isinstance(value, ml_collections.ConfigDict):
        # get_oneway_ref-free access: keys() plus [] resolves references one by one.
        return {k: plain(value[k]) for k in value.keys()}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value


def resolve(config: Any) -> dict[str, Any]:
    """Config as plain values with every known key present.

    Raises:
      ConfigError: a required key is empty, a value is of another type or out of range, or a key
        is almost the name of a known one.
    """
    if not isinstance(config, ml_collections.ConfigDict | Mapping):
        raise ConfigError(
            f"the config is a {type(config).__name__}; get_config must return "
            "tlflax.config.base(...)"
        )
    values = DEFAULTS | plain(config)
    if values.pop("runs"):
        raise ConfigError("the config holds several runs; tlflax.study.study runs them")
    for key in values:
        # Configs may have keys of their own, but one letter off is a mistake.
        if key not in DEFAULTS and difflib.get_close_matches(key, DEFAULTS, 1, 0.85):
            raise ConfigError(f"unknown config key {key!r}{suggest(key, DEFAULTS)}")
    for key in [k for k in DEFAULTS if k in values]:
        values[key] = _typed(key, values[key], DEFAULTS[key])
    for key, (lowest, why) in _LOWEST.items():
        if values[key] < lowest:
            raise ConfigError(f"{key} must be at least {lowest}, got {values[key]}{why}")
    for key, choices in _CHOICES.items():
        if values[key] not in choices:
            hint = suggest(values[key], choices)
            raise ConfigError(f"{key} must be {' or '.join(choices)}, got {values[key]!r}{hint}")
    for width in values["hidden"]:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ConfigError(f"hidden must be widths such as (256,), got {values['hidden']!r}")
    for key, example in {"data": "folder:pets", "backbone": "mobilenet_v2_1.0"}.items():
        if not values[key]:
            raise ConfigError(f"the config has no {key}; add --config.{key}={example}")
    if not values["stages"] or not all(isinstance(s, Mapping) for s in values["stages"]):
        raise ConfigError("the config has no stages; stages must be a tuple of dicts")
    # Where a config file replaces data_splits as a whole, "test" makes a flag's number a text.
    values["data_splits"] = {k: _number(v) for k, v in values["data_splits"].items()}
    unknown = [k for k in values["data_splits"] if k not in ("val", "test")]
    if unknown:
        raise ConfigError(f"data_splits has {unknown[0]!r}; its keys are val and test")
    return values


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _typed(key: str, value: Any, default: Any) -> Any:
    """The value, if it is of the default's type; numbers with a fraction may be whole."""
    kind = type(default)
    fits = isinstance(value, Mapping if kind is dict else kind)
    if kind is float and isinstance(value, int):
        value, fits = float(value), True
    if not fits or (isinstance(value, bool) and kind is not bool):
        names = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
        wanted = names.get(kind) or ("a dict" if kind is dict else "a tuple")
        raise ConfigError(f"{key} must be {wanted}, got {value!r}")
    return value


def _started(workdir: Path) -> bool:
    """Whether a checkpoint has been written (orbax names a finished one after its step)."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes ``config.json``, or checks that the folder belongs to this config.

    A folder in which nothing has been trained yet (a start that failed) belongs to nobody.

    Raises:
      ConfigError: the folder was made with another config; the message lists the keys.
    """
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    path = workdir / "config.json"
    if (workdir / STUDY).exists():
        raise ConfigError(f"{workdir} holds a study of several runs; use a new --workdir")
    if path.exists() and (_started(workdir) or (workdir / "report.json").exists()):
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        new = json.loads(text)
        if "weights" not in old:
            # Notebooks did not write it down in earlier versions; the report of their runs does.
            old["weights"] = _weights_of(workdir, new.get("weights"))
        # A key that an older version did not know was at its default.
        known = json.loads(json.dumps(DEFAULTS))
        old = {k: known[k] for k in new if k in known} | old
        changed = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
        if changed:
            pairs = [f"{k} ({_short(old.get(k))} -> {_short(new.get(k))})" for k in changed]
            raise ConfigError(
                f"{workdir} was made with another config: {', '.join(pairs)}; use a new --workdir, "
                "or the old values to resume"
            )
        return
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir {workdir} is a file")
    if _started(workdir):
        raise ConfigError(f"{workdir} has checkpoints but no config.json; use a new --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to --workdir {workdir}: {error.strerror}") from error


def _weights_of(workdir: Path, unknown: str | None) -> str | None:
    """SHA-256 of the pretrained weights of a notebook's run whose config.json does not say it.

    ``unknown`` where its report, which says it, is not written yet.
    """
    try:
        report = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
        return report["weights"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return unknown


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
