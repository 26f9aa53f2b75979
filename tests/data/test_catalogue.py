import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import encoded, pixels, png
from PIL import Image

from tlflax.data.decode import decode
from tlflax.data.source import load_dataset
from tlflax.errors import ConfigError, DataError


def build(root, name="tiny_pets", splits=None, extra=(), images=("image",), config=None,
          make=png):  # fmt: skip
    """Prepares a real array_record dataset of PNG and palette images."""
    splits = splits or {"train": 12, "validation": 4, "test": 6}

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")
        pkg_dir_path = None
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            labels = {"label": tfds.features.ClassLabel(names=["cat", "dog"])}
            labels |= {key: tfds.features.ClassLabel(num_classes=3) for key in extra}
            pictures = {key: tfds.features.Image(shape=(None, None, 3)) for key in images}
            features = {**pictures, **labels, "id": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self,
                description="tiny",
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label") if "image" in images else None,
            )

        def _split_generators(self, dl_manager):
            return {k: self._generate_examples(k, n) for k, n in splits.items()}

        def _generate_examples(self, split, count):
            for i in range(count):
                row = {key: io.BytesIO(make(hash_of(split, i))) for key in images}
                row |= {"label": i % 2, "id": f"{split}{i}"} | {key: 2 for key in extra}
                yield i, row

    Tiny.name = name
    Tiny(data_dir=str(root), file_format="array_record", config=config).download_and_prepare()


def hash_of(split, i):
    return len(split) * 1000 + i


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    build(root)
    return root


def load(root, tmp_path, source="tfds:tiny_pets", **options):
    return load_dataset(source, data_dir=root, cache_dir=tmp_path / "c", **options)


def test_reads_bytes_labels_and_splits(prepared, tmp_path):
    data = load(prepared, tmp_path)
    assert data.class_names == ("cat", "dog")
    assert [len(data.train), len(data.val), len(data.test)] == [12, 4, 6]
    assert data.train.files[3] == "tiny_pets/train/000003"
    assert data.val.files[0] == "tiny_pets/validation/000000"
    want = {png(hash_of("train", i)): i % 2 for i in range(12)}
    got = {data.train.read(i): int(data.train.labels[i]) for i in range(12)}
    assert got == want
    image = decode(data.train.read(0), "x")
    assert image.shape == (12, 10, 3)
    assert data.summary()["splits"] == "train: given; val: given; test: given"


def test_second_start_reads_no_record(prepared, tmp_path, monkeypatch):
    first = load(prepared, tmp_path)
    from tlflax.data import catalogue

    def refuse(*arguments):
        raise AssertionError("a record was read again")

    monkeypatch.setattr(catalogue, "_read", refuse)
    monkeypatch.setattr(catalogue, "ThreadPoolExecutor", refuse)
    again = load(prepared, tmp_path)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.labels, first.train.labels)


def test_environment_variable(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(load(None, tmp_path).train) == 12


def test_missing_splits_are_cut_and_other_splits_are_named(tmp_path):
    build(tmp_path, splits={"train": 20, "odd": 2})
    data = load(tmp_path, tmp_path)
    assert [len(data.train), len(data.val), len(data.test)] == [12, 4, 4]
    assert any("split 'odd' is not used" in w for w in data.warnings)


def test_not_prepared_says_how_and_what_is_near(prepared, tmp_path):
    with pytest.raises(DataError, match="did you mean tiny_pets") as caught:
        load(prepared, tmp_path, "tfds:tiny_pet")
    assert "python scripts/prepare_data.py tiny_pet" in str(caught.value)
    with pytest.raises(DataError, match=r"python scripts/prepare_data\.py cifar10"):
        load(tmp_path / "nothing", tmp_path, "tfds:cifar10")
    with pytest.raises(ConfigError, match=r"data 'tfds:' is not one of .*tfds:NAME"):
        load(prepared, tmp_path, "tfds:")


def test_tfrecord_says_how(prepared, tmp_path):
    import shutil

    shutil.copytree(prepared / "tiny_pets", tmp_path / "tiny_pets")
    info = tmp_path / "tiny_pets/1.2.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"prepared as tfrecord.*prepare_data\.py tiny_pets"):
        load(tmp_path, tmp_path)


def test_several_labels_follow_supervised_keys(tmp_path):
    build(tmp_path, extra=("coarse",))
    assert load(tmp_path, tmp_path).class_names == ("cat", "dog")


def test_no_single_image_is_an_error(tmp_path):
    build(tmp_path, images=("left", "right"))
    with pytest.raises(DataError, match=r"exactly one image.*left \(Image\)"):
        load(tmp_path, tmp_path)


def test_configurations(tmp_path):
    build(tmp_path, config="small")
    assert len(load(tmp_path, tmp_path, "tfds:tiny_pets/small").train) == 12
    assert len(load(tmp_path, tmp_path, "tfds:tiny_pets").train) == 12
    build(tmp_path, config="large")
    with pytest.raises(DataError, match="several configurations"):
        load(tmp_path, tmp_path, "tfds:tiny_pets")


def test_palette_bytes_reach_the_decoder_untouched(tmp_path):
    def palette(seed):
        return encoded(Image.fromarray(pixels(seed)).quantize(4))

    build(tmp_path, make=palette)
    data = load(tmp_path, tmp_path)
    wanted = {palette(hash_of("train", i)) for i in range(12)}
    assert {data.train.read(i) for i in range(12)} == wanted and len(wanted) == 12
    first = data.train.read(0)
    with Image.open(io.BytesIO(first)) as image:
        assert image.mode == "P"
        assert np.array_equal(decode(first, "x"), np.asarray(image.convert("RGB")))
