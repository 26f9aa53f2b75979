"""Which examples a step trains on: a pure function of (seed, step)."""

import threading
from dataclasses import dataclass, field

import numpy as np

from tlflax.errors import ConfigError

# First spawn-key entries: the random streams of one seed never meet.
SHUFFLE, AUGMENT, BALANCE = 0, 1, 2


def generator(seed: tuple[int, ...], *key: int) -> np.random.Generator:
    """Returns an independent generator for each (seed, key): counter-based Philox."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=key)
    return np.random.Generator(np.random.Philox(sequence))


@dataclass(frozen=True)
class TrainPlan:
    """Shuffled batches: every example exactly once per epoch, batches as equal as possible.

    100 examples at batch size 32 give 4 batches of 25, not 3 of 32 and one of 4: the last
    step of an epoch is as good as any other.

    With `balance` an epoch has as many examples, but equally many of each class (to within one;
    which classes have the odd one changes from epoch to epoch). Each class is gone through in
    shuffled order, again and again and across epochs: no example of it is seen for the n-th time
    before all others have been seen n - 1 times.

    Attributes:
        examples: training examples.
        batch_size: upper bound of examples per step.
        seed: non-negative integers, e.g. (run seed, stage).
        multiple: the row count is rounded up to this (number of devices).
        balance: int [examples], the class of each example; None for every example once an epoch.

    Raises:
        ConfigError: a count is not positive, a seed is negative, or there is not one class for
            each example.
    """

    examples: int
    batch_size: int
    seed: tuple[int, ...]
    multiple: int = 1
    balance: np.ndarray | None = field(default=None, repr=False, compare=False)
    _epochs: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _lock: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def __post_init__(self):
        for name in ("examples", "batch_size", "multiple"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.seed or min(self.seed) < 0:
            raise ConfigError(f"seed must be integers >= 0, not {self.seed}")
        if self.balance is not None and len(self.balance) != self.examples:
            raise ConfigError(f"{self.examples} examples have {len(self.balance)} classes")

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return -(-self.examples // self.batch_size)

    @property
    def rows(self) -> int:
        """Rows of every batch: real ones and padding."""
        return _rows(self.examples, self.steps_per_epoch, self.multiple)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns what step `step` (from 0, over all epochs) trains on.

        Returns:
            Example indices int64 [rows], weights float32 [rows] (0 on padding, which repeats
            examples of the same batch), and the epoch.
        """
        (order, _), epoch, position = self._at(step)
        chunk = _chunk(order, position, self.steps_per_epoch)
        return *_pad(chunk, self.rows), epoch

    def turns(self, step: int) -> np.ndarray:
        """Returns how often each row's example has been trained on before, int64 [rows].

        It is the epoch, unless classes are balanced: then an example can come twice in an epoch,
        and (example, turn) is what never comes twice.
        """
        (_, turns), _, position = self._at(step)
        return _pad(_chunk(turns, position, self.steps_per_epoch), self.rows)[0]

    def _at(self, step: int) -> tuple[tuple[np.ndarray, np.ndarray], int, int]:
        """Returns the epoch's order, its number, and the position of a step in it."""
        epoch, position = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._epochs:
                # Two: threads of a pipeline work on both sides of an epoch's end.
                while len(self._epochs) > 1:
                    del self._epochs[next(iter(self._epochs))]
                self._epochs[epoch] = self._order(epoch)
            return self._epochs[epoch], epoch, position

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the examples of an epoch in order, and the turn of each, int64 [examples]."""
        shuffled = generator(self.seed, SHUFFLE, epoch).permutation(self.examples)
        if self.balance is None:
            return shuffled, np.full(self.examples, epoch)
        examples, turns = [], []
        classes = np.unique(self.balance)
        for c, label in enumerate(classes):
            own = np.flatnonzero(self.balance == label)
            # Places are dealt to the classes in turn, 0, 1, ..., K - 1, 0, ..., over all epochs.
            first, last = (-(-(e * self.examples - c) // len(classes)) for e in (epoch, epoch + 1))
            for turn in range(first // len(own), -(-last // len(own))):
                order = generator(self.seed, BALANCE, c, turn).permutation(own)
                start = turn * len(own)
                examples.append(order[max(first - start, 0) : last - start])
                turns.append(np.full(len(examples[-1]), turn))
        return np.concatenate(examples)[shuffled], np.concatenate(turns)[shuffled]


def eval_plan(
    examples: int, batch_size: int, multiple: int = 1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (indices int64 [rows], weights float32 [rows]) of each batch, in order.

    Every example occurs once with weight 1; all batches have the same number of rows.
    """
    if batch_size < 1 or multiple < 1:
        raise ConfigError(f"batch_size ({batch_size}) and multiple ({multiple}) must be >= 1")
    if not examples:
        return []
    steps = -(-examples // batch_size)
    rows = _rows(examples, steps, multiple)
    order = np.arange(examples, dtype=np.int64)
    return [_pad(_chunk(order, k, steps), rows) for k in range(steps)]


def _rows(examples: int, steps: int, multiple: int) -> int:
    return -(-examples // (steps * multiple)) * multiple


def _chunk(order: np.ndarray, position: int, steps: int) -> np.ndarray:
    """The `position`-th of `steps` parts whose sizes differ by at most one."""
    n = len(order)
    return order[position * n // steps : (position + 1) * n // steps]


def _pad(chunk: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.zeros(rows, np.float32)
    weights[: len(chunk)] = 1
    return np.resize(chunk, rows).astype(np.int64), weights
