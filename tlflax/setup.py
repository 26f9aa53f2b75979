"""From a config to a network, stages and weights: whatever can be wrong before the data is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from tlflax.convert.store import Weights
from tlflax.data.augment import make_augment
from tlflax.errors import ConfigError
from tlflax.look_at import where_to_look
from tlflax.model import Architecture, Model
from tlflax.open_model import open_model
from tlflax.policy.stage import Stage, make_stage


def prepare(c: Mapping[str, Any]) -> tuple[Model, list[Stage], Weights | None]:
    """Network, stages and weights of a resolved config.

    Raises:
      TlflaxError: something the user must change.
    """
    stages = read_stages(c["stages"], c["augment"])
    placeholder = ("0", "1")  # the class names are known only after the data has been read
    architecture = Architecture(
        c["backbone"], c["endpoint"], placeholder, c["image_size"],
        c["head"], c["hidden"], c["dropout"], c["activation"], c["output"],
    )  # fmt: skip
    model = open_model(architecture, c["preprocessing"])
    for stage in stages:
        model.policy(stage)
    where_to_look(model, c["look_at"], c["grad_cam"])
    return model, stages, model.pretrained(c["weights"], c["weights_dir"])


def read_stages(entries: Sequence[Any], augment: str = "none") -> list[Stage]:
    """Checks stage dicts; stages of 0 epochs are left out.

    Raises:
      ConfigError: nothing is left, or two stages share a name.
    """
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ConfigError(f"a stage is a dict with a name and epochs, got {entry!r}")
    every = [make_stage({"augment": augment} | dict(entry)) for entry in entries]
    for stage in every:
        make_augment(stage.augment, 32)  # any size: raises on an unknown name
    stages = [s for s in every if s.epochs > 0]
    if not stages:
        raise ConfigError("every stage has 0 epochs: nothing would be trained")
    names = [s.name for s in stages]
    if len(set(names)) < len(names):
        raise ConfigError(f"two stages are called {max(names, key=names.count)!r}")
    return stages


def scratch_stage(stages: Sequence[Stage], epochs: int = 0, lr: float = 1e-3) -> Stage:
    """The baseline: the same network from random weights, everything trained."""
    fields = {
        "name": "scratch", "epochs": epochs or sum(s.epochs for s in stages), "train": ("all",),
        "lr": lr, "schedule": "cosine", "warmup": 0.05, "bn": "train",
        "augment": stages[-1].augment, **stages[-1].mixture,
    }  # fmt: skip
    return make_stage(fields)
