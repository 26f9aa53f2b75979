"""tlflax: the building blocks that its training loop uses, `tlflax.train.step` above all."""

import gc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench import drawn
from bench.plan import MOMENTUM, RATE, Network
from tlflax import tree
from tlflax.data.pipeline import Images, eval_batches
from tlflax.data.source import load_dataset
from tlflax.model import Architecture, Model
from tlflax.policy.optimizer import make_optimizer, make_schedule
from tlflax.policy.stage import make_stage
from tlflax.result import versions
from tlflax.train.devices import Placement
from tlflax.train.memory import keep_freed_memory
from tlflax.train.parts import gains, parts_of
from tlflax.train.state import above, split_variables
from tlflax.train.step import make_prefix, make_train_step
from tlflax.train.streams import resize_rule

assert MOMENTUM == 0.9  # that of tlflax' optimizer "momentum"


def _model(network: Network, size: int, form: str = "") -> Model:
    name, endpoint = form or network.tlflax, "auto" if form else network.endpoint
    return Model(Architecture(name, endpoint, ("0", "1"), size))


def _variables(model: Model, weights: str) -> dict[str, Any]:
    found = model.pretrained(weights or "none")
    variables = model.init(0)
    variables = model.load(variables, found) if found else variables
    head = variables["params"]["head"]["logits"]
    head["kernel"] = jnp.asarray(drawn.head(head["kernel"].shape[0]))
    return variables


class Peer:
    """What the worker asks of every peer."""

    def __init__(self):
        keep_freed_memory()  # as `tlflax.run.fit` does
        self.placement = Placement()

    def describe(self) -> dict[str, Any]:
        """Versions and device. XLA's pool of threads has one for each core."""
        device = jax.devices()[0]
        return {"versions": versions(), "device": device.device_kind, "platform": device.platform}

    def product(self, a: np.ndarray, b: np.ndarray) -> Callable[[], Any]:
        """``a @ b`` on the device."""
        run, pair = jax.jit(jnp.matmul), self.placement.replicate((a, b))
        return lambda: run(*pair).block_until_ready()

    def forward(
        self, network: Network, pixels: np.ndarray, weights: str = "", form: str = ""
    ) -> Callable[[], np.ndarray]:
        """Images to features ``[B, H, W, C]``, as the frozen prefix computes them."""
        model = _model(network, pixels.shape[1], form)
        prefix = make_prefix(model.module(), model.endpoint, pool=False)
        variables = self.placement.replicate(_variables(model, weights))

        def run() -> np.ndarray:
            return np.asarray(prefix(variables, self.placement.batch({"image": pixels})["image"]))

        return run

    def step(
        self,
        network: Network,
        pixels: np.ndarray,
        train: str = "all",
        weights: str = "",
        form: str = "",
        precision: str = "float32",
        rate: float = RATE,
    ) -> Callable[[], float]:
        """One training step: of everything, or of the last block from its cached features."""
        model = _model(network, pixels.shape[1], form).computing(precision)
        rule = "all" if train == "all" else f"from {network.last[0]}"
        fields = {"name": "step", "epochs": 1, "train": (rule,), "lr": rate}
        stage = make_stage(fields | {"optimizer": "momentum"})
        policy = model.policy(stage)
        schedule = make_schedule(stage.schedule, stage.lr, 1, stage.warmup)
        rates = {p: policy.multipliers[p] for p in policy.trained}
        tx = make_optimizer(stage.optimizer, schedule, rates)
        variables, held = _variables(model, weights), pixels
        start = None
        if train != "all":
            # Once per image, before training begins; afterwards steps read this.
            start = policy.boundary
            prefix = make_prefix(model.module(), start, pool=False)
            placed = self.placement.batch({"image": pixels})
            held = np.asarray(prefix(self.placement.replicate(variables), placed["image"]))
        module, names = model.module(policy.live), tuple(model.anatomy.blocks)
        # As `tlflax.train.stage_run` chooses them.
        parts = 1
        if start is None and gains(tree.flatten(model.abstract["params"])):
            parts = parts_of(len(held), pixels.shape[1], gradients=True)
        step = make_train_step(module, tx, seed=(0, 0), start=start, accumulate=parts)
        state, frozen = split_variables(variables, policy, tx)
        state = self.placement.replicate(state)
        needed = self.placement.replicate({c: above(v, start, names) for c, v in frozen.items()})
        batch = {
            "image": held,
            "label": drawn.labels(len(held)),
            "weight": np.ones(len(held), np.float32),
        }

        def run() -> float:
            nonlocal state
            state, loss = step(state, needed, self.placement.batch(batch))
            return float(loss)

        return run

    def decode(self, folder: str, size: int, batch: int) -> Callable[[], Any]:
        """All of ``folder/train`` to batches, nothing held; returns the last batch."""
        data = load_dataset(f"folder:{folder}").train
        model = Model(Architecture("mobilenet_v2_1.0", "auto", ("0", "1"), size))
        images = Images(data, size, resize_rule(model), 0)

        def run() -> np.ndarray:
            rows = np.zeros(0)
            for found in eval_batches(images, data.labels, batch):
                rows = found["image"]
            return rows

        return run

    def flops(self, network: str, size: int) -> dict[str, Any]:
        """Multiplications and additions of one image's forward pass, from the layers' shapes."""
        from bench.plan import NETWORKS

        model = _model(NETWORKS[network], size)
        record: dict[str, Any] = {}
        images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
        backbone = {c: v["backbone"] for c, v in model.abstract.items() if "backbone" in v}

        def shapes(variables, x):
            return model.chain.apply(variables, x, stop=model.endpoint, record=record)

        jax.eval_shape(shapes, backbone, images)
        total = 0
        for path, leaf in tree.flatten(backbone["params"]).items():
            layer, kind = path.split("/")[-2:]
            if kind == "kernel":
                places = int(np.prod(record[layer].shape[1:-1]))
                total += 2 * places * int(np.prod(leaf.shape))
        return {"flops": total}

    def clear(self) -> None:
        """Frees what compiled functions hold."""
        jax.clear_caches()
        gc.collect()
