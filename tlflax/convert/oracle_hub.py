"""TensorFlow Hub's modules run by TensorFlow, for `--verify`: their graph, not ours, computes."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlflax.convert.saved_model import run_saved_model

if TYPE_CHECKING:
    from tlflax.backbones.spec import Spec

NAME = "TensorFlow"
# The same float32 sums by other kernels (oneDNN's) and often folded by TensorFlow's optimiser.
TOLERANCE = 1e-4


def outputs(
    spec: "Spec", path: Path, images: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The feature vector, the only output of every module: the mean of the last block's map.

    Raises:
      ConvertError: TensorFlow is missing, or cannot run the folder.
    """
    features, version = run_saved_model(path, images)
    last = spec.default_endpoint or spec.chain().blocks[-1].name
    return {last: features}, {"tensorflow": version}
