"""Checkpoints: one orbax manager that holds the latest and the best. The only orbax import.

Three items a step: ``variables`` (all of them, so that the best can be restored whatever stage
it is from), ``training`` (optimizer leaves, counters), ``meta`` (JSON progress).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

# Score of a checkpoint that was saved between evaluations: it can be the latest, never the best.
UNSCORED = -1e9


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


class Checkpoints:
    """Latest and best checkpoint of one training, in one folder.

    Args:
      folder: made if needed; made absolute, because orbax fails late on relative paths.
    """

    def __init__(self, folder: Path):
        keep = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(1),
                checkpoint_managers.BestN(get_metric_fn=lambda m: m["score"], n=1),
            ]
        )
        # The policy alone writes no metrics to disk; best_fn alone deletes the latest. Both do
        # what is needed (measured with orbax 0.12.8).
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=lambda m: m["score"], best_mode="max"
        )
        names = ("variables", "training", "meta")
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options, item_names=names)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        # Without close() a checkpoint that is still being written is lost.
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Global step of the newest checkpoint, ``None`` if there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, variables: Any, training: Any, meta: Mapping[str, Any], score: float
    ) -> None:
        """Saves asynchronously. ``step`` must be above the latest one.

        Args:
          step: global step.
          variables: nested dicts of arrays.
          training: any pytree; only its leaves are stored.
          meta: JSON-able.
          score: higher is better, `UNSCORED` if not evaluated.
        """
        leaves = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(training))}
        host = jax.tree.map(np.asarray, dict(variables))
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(host),
                training=ocp.args.StandardSave(leaves),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
            metrics={"score": float(score)},
        )
        if not saved:
            raise RuntimeError(f"checkpoint {step} not written: latest is {self.latest_step}")

    def wait(self) -> None:
        """Returns when everything saved so far is on disk."""
        self._manager.wait_until_finished()

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON progress of a step."""
        restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        return restored["meta"]

    def variables(self, step: int, like: Any) -> dict[str, Any]:
        """Variables of a step, shaped like ``like``."""
        args = ocp.args.Composite(variables=ocp.args.StandardRestore(_abstract(like)))
        return self._manager.restore(step, args=args)["variables"]

    def training(self, step: int, like: Any) -> Any:
        """The training pytree of a step; ``like`` gives structure, shapes and dtypes."""
        leaves, structure = jax.tree.flatten(like)
        target = {str(i): _abstract(np.asarray(x)) for i, x in enumerate(leaves)}
        args = ocp.args.Composite(training=ocp.args.StandardRestore(target))
        restored = self._manager.restore(step, args=args)["training"]
        return jax.tree.unflatten(structure, [restored[str(i)] for i in range(len(leaves))])
