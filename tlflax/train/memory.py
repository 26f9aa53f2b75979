"""Memory that a step has used stays with the process for the next step."""

import ctypes
import platform

# mallopt's names for them (glibc, malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tells glibc not to give large blocks back to the system whenever they are freed.

    XLA's CPU backend asks for the buffers of a step anew each time; by default they come as fresh
    pages, which the system clears and maps one by one: a third of the time of a forward pass of
    MobileNetV2 at batch 32 (90 against 155 images/s). The largest size of the process stays the
    same; it falls later.

    Returns:
      Whether that was possible (Linux with glibc).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_TOP_PAD, 2**26)]
    )
