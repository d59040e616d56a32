"""Files are known by their structure: no first byte, no ending, no cut confuses it."""

import io
import json
import struct
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import weight_files
from safetensors.numpy import save, save_file

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import kinds, load_pretrained
from vit_jax_tricks.pretrained.files import read_weights


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(5, dtype=np.float64),
}


def safetensors(header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, size, shape=(4,)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


def npz(arrays, save=np.savez):
    data = io.BytesIO()
    save(data, **arrays)
    return data.getvalue()


def written(path, data):
    path.write_bytes(data)
    return path


def refusal(path):
    """The one line that refuses a file."""
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_every_first_byte_of_a_header_s_length(tmp_path):
    plain = save(ARRAYS)
    length = struct.unpack("<Q", plain[:8])[0]
    header, data = plain[8 : 8 + length], plain[8 + length :]
    for first in range(256):
        padded = header + b" " * ((first - length) % 256)
        assert len(padded) % 256 == first
        path = written(tmp_path / "w.safetensors", safetensors(padded, data))
        arrays = read_weights(path).arrays
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("name", ["w", "w.bin", "w.pth", "w.npz", "w.safetensors.part"])
@pytest.mark.parametrize("data", [save(ARRAYS), npz(ARRAYS)], ids=["safe", "npz"])
def test_the_ending_may_be_any(data, name, tmp_path):
    arrays = read_weights(written(tmp_path / name, data)).arrays
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[key], array)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("w.safetensors", save(ARRAYS)),
        ("w.npz", npz(ARRAYS)),
        ("w.npz", npz(ARRAYS, np.savez_compressed)),
    ],
)
def test_cut_anywhere_or_with_bytes_behind(name, data, tmp_path):
    path = tmp_path / name
    for end in range(len(data)):
        refusal(written(path, data[:end]))
    if name == "w.safetensors":
        refusal(written(path, data + b"\0"))


def test_any_damaged_byte_of_an_archive_is_seen_or_harmless(tmp_path):
    data = npz(ARRAYS)
    for at in range(len(data)):
        path = written(
            tmp_path / "w.npz", data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
        )
        arrays, refused = {}, ""
        try:
            arrays = read_weights(path).arrays
        except UserError as error:
            refused = str(error)
        assert "\n" not in refused
        for name in arrays.keys() & ARRAYS.keys():  # a loader misses other names
            np.testing.assert_array_equal(arrays[name], ARRAYS[name])


BOMBS = {
    "length": safetensors(b"{}", b"", length=2**63),
    "length of 4 GB": safetensors(b"{}", b"", length=2**32),
    "nested": safetensors(b'{"a":' * 9999, b""),
    "offsets": safetensors(entry("F32", 2**60), b"\0" * 16),
    "overlap": safetensors(
        {**entry("F32", 16), "b": entry("F32", 16)["a"]}, b"\0" * 16
    ),
    "negative": safetensors(entry("F32", 16, (-2, -2)), b"\0" * 16),
    "overflow": safetensors(entry("F32", 0, (2**32, 2**32)), b""),
    "no object": safetensors(b"{1: 2}", b""),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_headers_that_lie(data, tmp_path):
    refusal(written(tmp_path / "w.safetensors", data))


def claimed(header):
    """An archive whose one array has a header alone."""
    text = header.encode().ljust(117) + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("a.npy", start + text + b"\0" * 64)
    return data.getvalue()


def zeros_archive():
    """Two gigabytes of zeros in two megabytes."""
    data, block = io.BytesIO(), bytes(1 << 24)
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(128):
            file.write(block)
    return data.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"
CLAIMS = {
    "a terabyte": claimed(HEADER % 2**40),
    "overflow": claimed(HEADER % f"{2**40}, {2**40}"),
    "negative": claimed(HEADER % -1),
    "nested": claimed("(" * 100),
    "no dictionary": claimed("1 + 1"),
    "a program": claimed("__import__('os').getcwd()"),
}


@pytest.mark.parametrize("data", CLAIMS.values(), ids=CLAIMS)
def test_arrays_that_claim_too_much(data, tmp_path):
    assert "not a complete .npz" in refusal(written(tmp_path / "w.npz", data))


@pytest.mark.slow
def test_a_zip_bomb(tmp_path):
    path = written(tmp_path / "w.npz", zeros_archive())
    assert "which no weight file does" in refusal(path)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("F8_E4M3", 4), ("F8_E5M2", 4), ("F4", 2), ("F6_E2M3", 3), ("C64", 32)],
)
def test_types_without_plain_values_in_safetensors(dtype, size, tmp_path):
    path = written(tmp_path / "w", safetensors(entry(dtype, size), b"\0" * size))
    assert f"a holds {dtype}, expected one of float16" in refusal(path)


@pytest.mark.parametrize("dtype", ["c8", "f2, i4", "M8[s]", "S3"])
def test_types_without_plain_values_in_npz(dtype, tmp_path):
    path = written(tmp_path / "w.npz", npz({"a": np.zeros(3, dtype)}))
    assert "a holds " in refusal(path)


def vit():
    return create_model("vit_tiny_patch16_224", 5, **weight_files.SMALL)


def state(change=lambda array: array):
    arrays = weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)
    return {name: change(array) for name, array in arrays.items()}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("write", [save_file, lambda a, path: np.savez(path, **a)])
def test_integers_are_no_weights(dtype, write, tmp_path):
    path = tmp_path / "w.npz"
    write(state() | {"norm.bias": np.ones(16, dtype)}, path)
    with pytest.raises(UserError, match=f"norm.bias holds {dtype}, expected one of"):
        load_pretrained(vit(), path, verbose=False)


def test_integers_beside_the_weights_are_left_alone(tmp_path):
    extra = {"relative_position_index": np.arange(4)}
    save_file(state() | extra, tmp_path / "w.safetensors")
    _, report = load_pretrained(vit(), tmp_path / "w.safetensors", verbose=False)
    assert report.unused == ()


FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@pytest.mark.parametrize(
    ("dtype", "ending"),
    [(d, e) for d in FLOATS for e in (".npz", ".safetensors")] + [(">f4", ".npz")],
)
def test_floats_are_rounded_once(dtype, ending, tmp_path):
    arrays = state(lambda array: array.astype(dtype))
    path = tmp_path / f"w{ending}"
    if ending == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    variables, _ = load_pretrained(vit(), path, verbose=False)
    bias = arrays["blocks.0.mlp.fc1.bias"].astype(np.float32)
    loaded = variables["params"]["blocks_0"]["mlp"]["fc1"]["bias"]
    np.testing.assert_array_equal(loaded, bias)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_values_beyond_float32(tmp_path):
    save_file(state() | {"norm.bias": np.full(16, 1e300)}, tmp_path / "w.safetensors")
    message = r"norm.bias holds values that are not finite in float32\."
    with pytest.raises(UserError, match=message):
        load_pretrained(vit(), tmp_path / "w.safetensors", verbose=False)


class TestShards:
    def index(self, folder, weight_map):
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return path

    @pytest.fixture
    def path(self, tmp_path):
        files = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
        for name, file in files.items():
            save_file({name: ARRAYS[name]}, tmp_path / file)
        return self.index(tmp_path, files)

    def test_are_read_as_one(self, path):
        weights = read_weights(path)
        assert weights.source == str(path)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(weights.arrays[name], array)

    def test_a_missing_one(self, path):
        (path.parent / "model-2-of-2.safetensors").unlink()
        assert "which is missing beside it" in refusal(path)

    def test_one_that_is_cut(self, path):
        shard = path.parent / "model-2-of-2.safetensors"
        written(shard, shard.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"model-2-of-2.* not a complete"):
            read_weights(path)

    def test_one_without_its_array(self, path):
        save_file({"c": ARRAYS["a"]}, path.parent / "model-2-of-2.safetensors")
        assert "lacks b, which" in refusal(path)

    @pytest.mark.parametrize("file", ["../w.safetensors", "/w", ".w", "a\nb", 3, ""])
    def test_places_elsewhere(self, file, tmp_path):
        refusal(self.index(tmp_path, {"a": file}))

    @pytest.mark.parametrize("text", ['{"weight_map"', '{"weight_map": []}'])
    def test_damaged_indices(self, text, tmp_path):
        path = written(tmp_path / "model.safetensors.index.json", text.encode())
        assert "not a complete index of shards" in refusal(path)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\xef\xbb\xbf <?xml version", "a web page"),
        (b"<html>", "a web page"),
        (b"<\x00\x01", kinds.UNKNOWN),
        (b"\x80\x04\x95\x00", "a pickle"),
        (b"\x80\x04\xff", kinds.UNKNOWN),
        (b"\x80\x09}", kinds.UNKNOWN),
        (b"[[1, 2]]", "a JSON file"),
        (b"GGUF\x03", "a GGUF file"),
    ],
)
def test_starts(start, what, tmp_path):
    assert kinds.kind(written(tmp_path / "w", start)) == what
