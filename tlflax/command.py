"""Exit codes of every command: 0 done, 2 the user must change something, 130/143 interrupted."""

import io
import os
import sys
from collections.abc import Callable

from tlflax.errors import TlflaxError


def run_command(main: Callable[[list[str]], None]) -> None:
    """Runs ``main(argv)`` and exits the process.

    A `TlflaxError` is one line on stderr and exit code 2; anything unexpected keeps its
    traceback and exits 1, because then the defect is ours.
    """
    # Progress of the libraries below is not the user's business; their errors are.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be text. Its odd bytes are printed as \udcff, say.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv)
    except TlflaxError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `... | head` closed the pipe: not an error of anybody's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as error:
        code = getattr(error, "code", None)
        if type(error).__name__ == "Interrupted":
            print(f"\n{error}: saved; run the same command to go on", file=sys.stderr)
            sys.exit(code)
        raise
