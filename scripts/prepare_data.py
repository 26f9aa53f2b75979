"""Downloads a catalogue dataset and prepares it for ``--config.data=tfds:NAME``.

    pip install -e '.[tf]'
    python scripts/prepare_data.py NAME[/CONFIG] [--data-dir DIR]

Needs TensorFlow, which most catalogue datasets use to prepare themselves; training reads the
result without it. The data goes to DIR, $TFDS_DATA_DIR or ~/tensorflow_datasets, as
array_record files, which allow random access (tfds' default tfrecord files do not).

What was run: the error paths below, and the whole way for horses_or_humans from locally made
archives in the official layout (tests/test_tf.py). Not run: the downloads themselves
(horses_or_humans, cats_vs_dogs, cifar10, food101), because their hosts could not be reached
from the machine this was written on.
"""

import argparse
import importlib.util
import sys


def main(arguments: list[str] | None = None) -> int:
    """Prepares one dataset; returns the exit code (2: the user must change something)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", metavar="NAME", help="tfds name, e.g. cifar10 or NAME/CONFIG")
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("tensorflow") is None:
        return _fail("preparing needs TensorFlow: pip install -e '.[tf]' (training does not)")
    import tensorflow_datasets as tfds

    from tlflax.errors import suggest

    try:
        builder = tfds.builder(options.name, data_dir=options.data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        name = options.name.partition("/")[0]
        # Community datasets are listed over the network.
        known = tfds.list_builders(with_community_datasets=False)
        return _fail(f"tfds has no dataset '{name}'{suggest(name, known)}")
    except ValueError as error:
        return _fail(f"'{options.name}': {str(error).splitlines()[0]}")
    try:
        builder.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return _fail(f"'{options.name}' could not be downloaded: {reason}")
    print(f"{builder.data_dir} is ready: --config.data=tfds:{options.name}")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
