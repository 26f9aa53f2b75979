"""Ctrl-C and SIGTERM: finish the step, save, leave with 130 or 143."""

import signal
import threading
from types import FrameType


class Interrupted(BaseException):
    """Raised after everything worth saving has been saved.

    Attributes:
      code: exit code, 128 + signal number.
    """

    def __init__(self, number: int):
        self.code = 128 + number
        super().__init__(signal.Signals(number).name)


class Guard:
    """Notes the signals while a ``with`` block runs; the loop asks `check` between steps.

    Outside the training loop nothing is half done, so there the signal raises at once; a second
    signal always does. In a thread other than the main one signals are left alone.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self.deferred = False
        self._old: dict[int, object] = {}

    def __enter__(self) -> "Guard":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred or self.pending is not None:
            raise Interrupted(number)
        self.pending = number
