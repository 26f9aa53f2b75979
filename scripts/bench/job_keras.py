"""A whole job in Keras, as its transfer learning guide does it (keras.io/guides/transfer_learning).

python -m bench.job_keras NETWORK FOLDER frozen|last EPOCHS SIZE BATCH

The frozen application is called with ``training=False`` inside the model and `fit` runs it for
every image in every epoch. Prints what it did as JSON.
"""

import json
import sys

import numpy as np

from bench.peer_keras import application, build_and_compile, directory, freeze
from bench.plan import BLOCK_RATE, NETWORKS, RATE


def main(name: str, folder: str, mode: str, epochs: int, size: int, batch: int) -> None:
    """Trains, validates after every epoch, tests."""
    network = NETWORKS[name]
    train, val, test = (
        directory(f"{folder}/{split}", size, batch, shuffle=split == "train")
        for split in ("train", "val", "test")
    )
    base = application(network, size)
    freeze(base, network.last[1] if mode == "last" else "")
    rate = BLOCK_RATE if mode == "last" else RATE
    model = build_and_compile(network, base, size, rate)
    model.fit(train, validation_data=val, epochs=epochs, verbose=2)
    loss, accuracy = model.evaluate(test, verbose=2)
    facts = {
        "test_accuracy": accuracy, "test_loss": loss, "epochs": epochs,
        "test_images": sum(len(np.asarray(y)) for _, y in test),
        "trained_parameters": sum(int(np.prod(w.shape)) for w in model.trainable_weights),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    words, numbers = sys.argv[1:4], [int(n) for n in sys.argv[4:7]]
    main(words[0], words[1], words[2], numbers[0], numbers[1], numbers[2])
