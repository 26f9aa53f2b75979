"""Reading torch's files without torch, and refusing what is no weights."""

import io
import os
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_layout import (
    NEW_DICT,
    integer,
    state_pickle,
    text,
    view_pickle,
    write_legacy,
    write_pth,
    write_tar,
)

from tlflax.command import run_command
from tlflax.convert.__main__ import main
from tlflax.convert.torch_file import read_safetensors, read_torch
from tlflax.errors import ConvertError

RNG = np.random.default_rng(0)
# bfloat16 bits of 1, -2, 0.1 and infinity, and those numbers.
BITS = np.array([0x3F80, 0xC000, 0x3DCD, 0x7F80], np.uint16)
NUMBERS = np.array([1.0, -2.0, 0.10009765625, np.inf], np.float32)
ARRAYS = {
    "conv.weight": RNG.standard_normal((4, 3, 2, 2), np.float32),
    "fc.weight": RNG.standard_normal((2, 3)).astype(np.float16),
    "fc.bias": RNG.standard_normal(2),
    "bn.num_batches_tracked": np.array(7),
    "mask": np.array([True, False, True]),
    "half": BITS,
    "nothing": np.zeros((0, 3), np.float32),
}


def same(found, prefix=""):
    assert list(found) == [f"{prefix}{n}" for n in ARRAYS]
    for name, array in ARRAYS.items():
        wanted = NUMBERS if name == "half" else array
        assert found[prefix + name].dtype == wanted.dtype or not wanted.size
        np.testing.assert_array_equal(found[prefix + name], wanted)


@pytest.mark.parametrize("write", [write_pth, write_legacy, write_tar])
# The first bytes tell the form, not the name.
@pytest.mark.parametrize("name", ["w.pth", "w.bin"])
def test_every_form_and_dtype(write, name, tmp_path):
    same(read_torch(write(tmp_path / name, ARRAYS)))


def test_wrapped_and_prefixed(tmp_path):
    same(read_torch(write_legacy(tmp_path / "w.th", ARRAYS, wrapped=True)))


def wrapped(key, beside=b""):
    return b"}(" + text(key) + state_pickle(ARRAYS, False) + beside + b"u"


NAMESPACE = b"cargparse\nNamespace\n)\x81}" + b"(" + text("lr") + integer(3) + b"ub"
SCALAR = (
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text("f8") + integer(0) + integer(1)
    + b"tR(" + integer(3) + text("<") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    + b"c_codecs\nencode\n(" + text("\x00" * 8) + text("latin1") + b"tRtR"
)  # fmt: skip
# One tensor of four numbers among the optimizer's own.
MOMENTUM = view_pickle("FloatStorage", "0", 48, 0, (4,), (1,))


@pytest.mark.parametrize(
    ("key", "beside"),
    [
        ("state_dict", text("epoch") + integer(90) + text("arch") + text("resnet18")),
        ("model_state_dict", text("optimizer") + b"}(" + text("m") + MOMENTUM + b"u"),
        ("model", text("args") + NAMESPACE),
        ("net", text("acc") + SCALAR + text("best_prec1") + MOMENTUM),
    ],
)
def test_training_checkpoints(key, beside, tmp_path):
    same(read_torch(write_pth(tmp_path / "w.pth", ARRAYS, wrapped(key, beside))))


def test_parts_of_shared_numbers(tmp_path):
    base = np.arange(24, dtype=np.float32)
    views = {
        "transposed": ((4, 6), (1, 4), 0),
        "part": ((2, 3), (6, 1), 7),
        "every_second": ((5,), (2,), 3),
    }
    pairs = b"".join(
        text(name) + view_pickle("FloatStorage", "0", 24, offset, shape, strides)
        for name, (shape, strides, offset) in views.items()
    )
    path = write_pth(tmp_path / "w.pt", {"base": base}, b"}(" + pairs + b"u")
    found = read_torch(path)
    np.testing.assert_array_equal(found["transposed"], base.reshape(6, 4).T)
    np.testing.assert_array_equal(found["part"], base.reshape(4, 6)[1:3, 1:4])
    np.testing.assert_array_equal(found["every_second"], base[3:12:2])


def test_parameters_and_compiled_models(tmp_path):
    tensor = view_pickle("FloatStorage", "0", 3, 0, (3,), (1,))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor + b"\x88" + NEW_DICT + b"tR"
    pickled = NEW_DICT + b"(" + text("module._orig_mod.w") + parameter + b"u"
    pickled += b"}(" + text("_metadata") + NEW_DICT + b"ub"  # what torch hangs on the dict
    found = read_torch(write_pth(tmp_path / "w.pt", {"w": np.arange(3, dtype="f4")}, pickled))
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], [0, 1, 2])


def test_safetensors(tmp_path):
    arrays = {f"module.{n}": a for n, a in ARRAYS.items() if n != "half"}
    found = read_safetensors(save(tmp_path / "w.safetensors", arrays))
    for name, array in ARRAYS.items():
        if name != "half":
            np.testing.assert_array_equal(found[name], array)
    path = tmp_path / "b.safetensors"
    header = b'{"half":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + BITS.tobytes())
    np.testing.assert_array_equal(read_safetensors(path)["half"], NUMBERS.reshape(2, 2))


def save(path, arrays):
    save_file(arrays, path, metadata={"format": "pt"})
    return path


def call(module, name, *arguments):
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR"


TENSOR = view_pickle("FloatStorage", "0", 4, 0, (2, 2), (2, 1))


def tensor(offset=0, shape=(2, 2), strides=(2, 1), numel=4, kind="FloatStorage", key="0"):
    opcodes = view_pickle(kind, key, numel, offset, shape, strides)
    return b"}(" + text("w") + opcodes + b"u"


RUNS = call("posix", "system", "touch RAN")
BAD_PICKLES = {
    "runs_a_program": (RUNS, "asks for posix.system", "nothing was run"),
    "runs_inside": (b"}(" + text("w") + TENSOR + text("x") + RUNS + b"u", "posix.system", "run"),
    "evaluates": (call("builtins", "eval", "open('RAN', 'w')"), "builtins.eval", "nothing"),
    "by_attribute": (call("torch._utils", "os.system", "touch RAN"), "os.system", "nothing"),
    "torch_function": (call("torch", "load", "RAN"), "asks for torch.load", "nothing"),
    "numpy_objects": (call("numpy", "dtype", "O8"), "numpy data other than numbers"),
    "whole_model": (
        b"ctorchvision.models.resnet\nResNet\n)\x81",
        "torchvision.models.resnet.ResNet",
        "state_dict()",
    ),
    "changes_a_storage": (tensor()[:-1] + b"(K\x00tb", "changes what it calls", ""),
    "changes_a_function": (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "changes what it calls", ""),
    "before_the_numbers": (tensor(offset=-1), "impossible shape", ""),
    "beyond_the_numbers": (tensor(offset=1), "reaches beyond", "(2, 2)"),
    "expanded": (tensor(shape=(1 << 30, 2), strides=(0, 1)), "reaches beyond", ""),
    "negative_stride": (tensor(strides=(-2, 1)), "impossible shape", ""),
    "other_length": (tensor(numel=5), "archive/data/0 are of another length", ""),
    "other_type": (tensor(kind="DoubleStorage"), "of another length", ""),
    "complex": (tensor(kind="ComplexFloatStorage"), "torch.ComplexFloatStorage", ""),
    "no_numbers": (tensor(key="../../etc/passwd"), "are missing", ""),
    "a_list": (b"](" + TENSOR + b"e", "no dict of tensors but one list", ""),
    "a_number": (integer(3), "no dict of tensors but one int", ""),
    "no_tensors": (b"}(" + text("epoch") + integer(3) + b"u", "holds no tensors", "'epoch'"),
    "two_networks": (
        b"}(" + text("w") + TENSOR + text("teacher") + b"}(" + text("w") + TENSOR + b"uu",
        "it holds 'teacher'",
        "state_dict()",
    ),
    "itself": (b"}q\x00(" + text("model") + b"h\x00u", "damaged"),
    "cut": (text("w")[:-1], "damaged", ""),
}


@pytest.mark.parametrize("case", BAD_PICKLES)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_bad_pickles_run_nothing(case, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled, *parts = BAD_PICKLES[case]
    numbers = np.arange(4, dtype=np.float32)
    path = tmp_path / "w.pth"
    if form == "zip":
        write_pth(path, {"w": numbers}, pickled)
    else:
        # What lies behind it is whole: it is the pickle that is refused.
        whole = write_legacy(tmp_path / "whole", {"w": numbers}).read_bytes()
        state = state_pickle({"w": numbers}, True)
        path.write_bytes(whole.replace(state, pickled))
        if case in ("other_length", "other_type", "no_numbers", "a_number", "no_tensors", "itself"):
            # Told by the numbers behind it, which belong to another tensor or to none.
            parts = ["stored numbers"] if case != "other_type" else ["too early"]
    with pytest.raises(ConvertError) as raised:
        read_torch(path)
    said = str(raised.value)
    begin = f"cannot read {path} as a torch file: "
    assert said.startswith(begin) and "\n" not in said
    assert len(said) < 450
    # The path has the test's own name in it.
    for part in parts:
        assert part in said.removeprefix(begin), said
    assert not (tmp_path / "RAN").exists()


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


GOOD = b"\x80\x02" + tensor() + b"."
DATA = np.zeros(4, "f4").tobytes()
BAD_ZIPS = {
    "traversal": ({"a/data.pkl": GOOD, "a/../../RAN": b"x"}, "points outside the archive"),
    "absolute": ({"a/data.pkl": GOOD, "TMP/RAN": b"x"}, "points outside the archive"),
    "drive": ({"a/data.pkl": GOOD, "C:\\RAN": b"x"}, "points outside the archive"),
    "torchscript": (
        {"a/data.pkl": GOOD, "a/data/0": DATA, "a/constants.pkl": b"", "a/code/m.py": b""},
        "a TorchScript archive",
    ),
    "two_models": ({"a/data.pkl": GOOD, "b/data.pkl": GOOD}, "without data.pkl"),
    "another_zip": ({"w.npy": b"x", "v.npy": b"y"}, "without data.pkl (it has w.npy, v.npy)"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_archives(case, tmp_path, monkeypatch):
    members, said = BAD_ZIPS[case]
    # So deep that what leads out of the folder is still looked at.
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    members = {name.replace("TMP", str(tmp_path)): data for name, data in members.items()}
    path = zipped(deep / "w.pth", members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConvertError) as raised:
        read_torch(path)
    assert said in str(raised.value).split(" as a torch file: ", 1)[1]
    assert sorted(tmp_path.rglob("*")) == before


def test_huge_claims(tmp_path):
    # 64 MB of zeros in 64 kB.
    members = {"a/data.pkl": GOOD, "a/data/0": bytes(1 << 26)}
    path = zipped(tmp_path / "w.pth", members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ConvertError, match=r"claim 67,\d+,\d+ bytes, the file has"):
        read_torch(path)
    # Many names for the same numbers.
    numbers = np.zeros(10_000, np.float32)
    view = view_pickle("FloatStorage", "0", 10_000, 0, (10_000,), (1,))
    pairs = b"".join(text(f"w{i}") + view for i in range(300))
    path = write_pth(tmp_path / "v.pth", {"w": numbers}, b"}(" + pairs + b"u")
    with pytest.raises(ConvertError, match="claim 3,000,000 numbers, the file has"):
        read_torch(path)
    for claimed in (1 << 60, -1):
        path = write_legacy(tmp_path / "l.th", {"w": np.zeros(4, np.float32)})
        data = path.read_bytes()
        path.write_bytes(data[:-24] + struct.pack("<q", claimed) + data[-16:])
        with pytest.raises(ConvertError, match="more than the file has bytes for"):
            read_torch(path)


@pytest.mark.parametrize("write", [write_pth, write_legacy, write_tar])
def test_truncated(write, tmp_path):
    arrays = {name: array for name, array in ARRAYS.items() if array.size}
    whole = write(tmp_path / "whole", arrays).read_bytes()
    path = tmp_path / "w.pth"
    # A tar archive ends with zeros that nobody misses.
    end = len(whole.rstrip(b"\0")) if write is write_tar else len(whole)
    for length in [*range(1, end - 1, max(1, end // 40)), 1, 2, 100, end - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ConvertError, match=r"cannot read .*w\.pth as a torch file: "):
            read_torch(path)


def test_what_is_no_torch_file(tmp_path):
    path = tmp_path / "w.pth"
    for data, said in [
        (b"", "it does not begin like one"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"\x80\x04K\x03.", "no magic number"),
        (b"\x80\x02" + RUNS + b".", "posix.system"),
    ]:
        path.write_bytes(data)
        with pytest.raises(ConvertError, match=said):
            read_torch(path)
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.py"), io.BytesIO())
    with pytest.raises(ConvertError, match="a tar archive without 'storages'"):
        read_torch(path)
    path.write_bytes(b"{}")
    with pytest.raises(ConvertError, match="as safetensors"):
        read_safetensors(path)


def test_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_pth(tmp_path / "w.pth", {"w": np.zeros(4, np.float32)}, RUNS)
    monkeypatch.setattr(sys, "argv", ["convert", str(path), "out.safetensors"])
    with pytest.raises(SystemExit) as stopped:
        run_command(main)
    out, error = capsys.readouterr()
    assert stopped.value.code == 2 and out == ""
    assert error.startswith("error: ") and error.count("\n") == 1 and "posix.system" in error
    assert os.listdir(tmp_path) == ["w.pth"]
    # The folder of compiled programs is made before the file is opened.
    assert set(os.listdir(os.environ["TLFLAX_CACHE"])) <= {"compiled"}
