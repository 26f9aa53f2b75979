"""Where official weights come from, and what is kept."""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np
import pooch
import pytest
from keras_layout import keras_arrays, write_h5

from tlflax import tree
from tlflax.backbones import inventory
from tlflax.backbones.spec import Source
from tlflax.backbones.table import get
from tlflax.convert import store
from tlflax.errors import ConvertError

NAME = "mobilenet_v2_0.35"
SPEC = get(NAME)
FILE = SPEC.source.file_name


@pytest.fixture(scope="module")
def arrays():
    return keras_arrays(NAME)


@pytest.fixture(scope="module")
def shapes():
    return inventory.abstract_variables(SPEC.chain(), 64)


@pytest.fixture(autouse=True)
def _traced_once(shapes, monkeypatch):
    monkeypatch.setattr(inventory, "abstract_variables", lambda chain, size: shapes)


@pytest.fixture
def folder(arrays, tmp_path):
    write_h5(tmp_path / FILE, arrays, "mobl")
    return tmp_path


@pytest.fixture
def cache():
    return Path(os.environ["TLFLAX_CACHE"])


def official(weights_dir=None, spec=SPEC):
    return store.load_weights(spec, spec.chain(), "official", weights_dir and str(weights_dir))


def from_path(path):
    return store.load_weights(SPEC, SPEC.chain(), str(path))


def count_reads(monkeypatch):
    reads = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda p: (reads.append(p), read(p))[1])
    return reads


def first(weights):
    return weights.variables["params"]["Conv1_relu"]["Conv1"]["kernel"]


def test_second_load_uses_the_converted_file(folder, cache, monkeypatch):
    reads = count_reads(monkeypatch)
    one = from_path(folder / FILE)
    (entry,) = (cache / "weights").iterdir()
    assert entry.name.startswith(NAME) and one.sha256[:16] in entry.name
    two = from_path(folder / FILE)
    assert len(reads) == 1
    assert tree.digest(tree.flatten(one.variables)) == tree.digest(tree.flatten(two.variables))
    assert (one.source, one.sha256, one.certificate, one.notes) == (
        two.source,
        two.sha256,
        two.certificate,
        two.notes,
    )


@pytest.mark.parametrize("damage", [b"", b"{}", "half", "foreign"])
def test_damaged_entry_is_made_again(damage, folder, cache, monkeypatch):
    expected = first(from_path(folder / FILE))
    (entry,) = (cache / "weights").iterdir()
    whole = entry.read_bytes()
    if damage == "foreign":
        store.save_weights(entry, get("vgg16"), from_path(folder / FILE))
    else:
        entry.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    reads = count_reads(monkeypatch)
    assert np.array_equal(first(from_path(folder / FILE)), expected)
    assert len(reads) == 1 and entry.read_bytes() == whole
    assert os.listdir(cache / "weights") == [entry.name]


def test_changed_source_makes_a_new_entry(folder, cache, arrays):
    before = from_path(folder / FILE)
    kernel = arrays["Conv1"]["kernel"] + 1
    write_h5(folder / FILE, arrays | {"Conv1": {"kernel": kernel}})
    after = from_path(folder / FILE)
    assert np.array_equal(first(after), kernel) and after.sha256 != before.sha256
    assert len(list((cache / "weights").iterdir())) == 2


def test_cache_that_cannot_be_written_costs_a_note(folder, cache):
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    weights = from_path(folder / FILE)
    assert len(weights.notes) == 1 and "could not be kept" in weights.notes[0]


@pytest.mark.parametrize("where", ["given", "variable", "keras"])
def test_official_file_is_found_by_name(where, folder, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", None)
    if where == "variable":
        monkeypatch.setenv("TLFLAX_WEIGHTS", str(folder))
    elif where == "keras":
        models = Path(os.environ["KERAS_HOME"]) / "models"
        models.mkdir()
        (folder / FILE).rename(models / FILE)
    weights = official(folder if where == "given" else None)
    assert weights.official
    # Keras publishes no hash for this file, so the name is all that is known.
    assert weights.source.startswith(f"{FILE}, a local file of the official name")
    assert SPEC.source.url in weights.source and weights.notes == ()


def test_a_named_file_is_not_taken_for_the_official_one(folder):
    assert not from_path(folder / FILE).official


def test_weights_dir_must_be_a_folder(tmp_path):
    with pytest.raises(ConvertError, match=r"weights_dir .*/nowhere is not a folder"):
        official(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConvertError, match="is not a folder"):
        official(tmp_path / "file")


def with_hash(hash_):
    return dataclasses.replace(SPEC, source=Source(SPEC.source.url, hash_))


def test_other_bytes_than_published_are_noted(folder):
    right = "md5:" + hashlib.md5((folder / FILE).read_bytes()).hexdigest()
    assert official(folder, with_hash(right)).notes == ()
    (note,) = official(folder, with_hash("md5:" + "0" * 32)).notes
    assert "not the published 000" in note and FILE in note


def serve(monkeypatch, content):
    """Replaces the network by `content`, or by an error; returns the list of requests."""
    requests = []

    class Downloader:
        def __init__(self, **options):
            pass

        def __call__(self, url, output_file, pooch, check_only=False):
            requests.append(url)
            if isinstance(content, Exception):
                raise content
            Path(output_file).write_bytes(content)

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    return requests


def test_download_once(folder, cache, monkeypatch):
    requests = serve(monkeypatch, (folder / FILE).read_bytes())
    weights = official()
    assert requests == [SPEC.source.url] and weights.source == SPEC.source.url
    official()
    assert len(requests) == 1 and (cache / "downloads" / FILE).is_file()


@pytest.mark.parametrize("error", [ConnectionError("Name or service\nnot known"), OSError()])
def test_no_network(error, cache, monkeypatch):
    serve(monkeypatch, error)
    with pytest.raises(ConvertError) as raised:
        official()
    text = str(raised.value)
    assert text.startswith(f"could not download {SPEC.source.url}")
    assert "--config.weights_dir=FOLDER" in text and FILE in text and "\n" not in text
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_wrong_hash_leaves_no_file(folder, cache, monkeypatch):
    serve(monkeypatch, (folder / FILE).read_bytes())
    with pytest.raises(ConvertError, match=r"could not download .* hash"):
        official(spec=with_hash("md5:" + "0" * 32))
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_page_served_in_place_of_the_file_is_not_kept(folder, cache, monkeypatch):
    # Keras publishes no hashes for MobileNetV2: only reading the file shows what it is.
    serve(monkeypatch, b"<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(ConvertError, match=r"removed; the next run downloads it again"):
        official()
    assert [p for p in cache.rglob("*") if p.is_file()] == []
    serve(monkeypatch, (folder / FILE).read_bytes())
    assert first(official()).shape == (3, 3, 3, 16)


def test_a_bad_file_of_the_user_stays(tmp_path):
    (tmp_path / FILE).write_bytes(b"not HDF5")
    with pytest.raises(ConvertError, match="cannot read"):
        official(tmp_path)
    assert (tmp_path / FILE).is_file()
