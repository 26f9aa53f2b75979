"""A model from what a user names: a network of the zoo, or a Keras file of their own."""

import dataclasses
from pathlib import Path

from tlflax.convert.readers import is_path
from tlflax.model import Architecture, Model


def open_model(architecture: Architecture, preprocessing: str = "auto") -> Model:
    """Builds a zoo network, or a user's own Keras model from its file.

    Args:
      architecture: ``backbone`` is a zoo name, or the path of a Keras model.
      preprocessing: input contract of an own model (see `tlflax.convert.own`). A zoo network's
        belongs to its weights: another one is taken as it is, and
        `Architecture.misprepared` says so.

    Raises:
      TlflaxError: unknown network, or unreadable file.
    """
    if is_path(architecture.backbone):
        from tlflax.convert.own import open_own

        spec, found = open_own(Path(architecture.backbone).expanduser(), preprocessing)
        own = {"graph": spec.options["graph"], "contract": dataclasses.asdict(spec.contract)}
        model = Model(dataclasses.replace(architecture, backbone=spec.name, own=own))
        model.brought = found
        return model
    return Model(dataclasses.replace(architecture, preprocessing=preprocessing))
