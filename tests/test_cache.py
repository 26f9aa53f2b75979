"""`python -m tlflax.cache`: what is kept, and deleting it."""

import numpy as np

from tlflax import cache, folders
from tlflax.features.store import Store


def stored(name, **facts):
    root = folders.cache_dir() / "features"
    store = Store(root, name, (1000,), "float32", facts, 2**30)
    store.append([bytes(32)], np.ones((1, 1000), np.float32))
    return store.folder


def test_shows_every_network_and_folder(capsys):
    stored("a", backbone="vgg16", boundary="block4_pool", image_size=150, dtype="float32")
    folder = folders.cache_dir() / "weights"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"1" * 3 * 2**20)
    cache.main(["cache"])
    out = capsys.readouterr().out
    (line,) = [x for x in out.splitlines() if x.startswith("vgg16")]
    assert line.split()[:7] == ["vgg16", "up", "to", "block4_pool", "150", "float32", "0.0"]
    assert any(x.split() == ["weights", "3.0", "MB"] for x in out.splitlines())


def test_nothing_there_yet(capsys):
    cache.main(["cache"])
    cache.main(["cache", "--clear"])
    assert "nothing to delete" in capsys.readouterr().out


def test_clear_deletes_features_only(capsys):
    folder = stored("a")
    other = folders.cache_dir() / "weights"
    other.mkdir()
    cache.main(["cache", "--clear"])
    assert "deleted" in capsys.readouterr().out
    assert not folder.exists() and other.is_dir()


def test_an_identity_that_cannot_be_read_is_no_reason_to_fail(capsys):
    (stored("a") / "identity.json").write_text("{")
    cache.main(["cache"])
    assert "? up to ?" in capsys.readouterr().out
