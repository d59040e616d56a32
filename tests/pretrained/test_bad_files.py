"""What is no sound weight file: one clear line each, and nothing in it is run."""

import io
import os
import pickle
import sys
import tarfile
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import weight_files
from safetensors.numpy import save

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.pretrained import kinds, load_pretrained


def state():
    return weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=5)


def npz(**arrays):
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def archive(**files):
    """A zip file; `__` in a name is a slash."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name.replace("__", "/"), content)
    return data.getvalue()


def tarred(content):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("weights.bin")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Bomb:
    """Unpickling it makes a folder where `where` says."""

    where = ""

    def __reduce__(self):
        return os.mkdir, (self.where,)


def bomb(folder):
    Bomb.where = str(folder / "exploded")
    return pickle.dumps({"head.bias": Bomb()}, protocol=2)


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


SAFE, NPZ = save(state()), npz(**state())
NAN = {"cls_token": np.full((1, 1, 16), np.nan, np.float32)}
INF = {"norm.bias": np.full(16, np.inf, np.float64)}
SHORT = {"norm.bias": np.zeros(15, np.float32)}
FILES = {
    "empty": ("w.safetensors", b"", "not a complete .safetensors file (it is empty)"),
    "empty npz": ("w.npz", b"", "not a complete NumPy archive (it is empty)"),
    "empty pth": ("w.pth", b"", "not a complete PyTorch file (it is empty)"),
    "noise": ("w.safetensors", b"\xff" * 99, "its start is unknown"),
    "noise pth": ("w.pth", b"\xff" * 99, "its start is unknown"),
    "cut": ("w.safetensors", SAFE[:-1], "not a complete .safetensors file"),
    "cut in the names": ("w.safetensors", SAFE[:99], "not a complete .safetensors"),
    "cut npz": ("w.npz", NPZ[:-1], "its archive is cut short"),
    "half an npz": ("w.npz", NPZ[: len(NPZ) // 2], "its archive is cut short"),
    "flipped bit": ("w.npz", flipped(NPZ), "not a complete .npz file"),
    "cut pth": ("w.pth", archive(a__data__pkl=b"x")[:-9], "its archive is cut short"),
    "damaged pth as safetensors": (
        "w.safetensors",
        archive(**{"archive__data.pkl": b"x"}),
        "a PyTorch file" if find_spec("torch") is None else "not a complete PyTorch",
    ),
    "pickle as npz": ("w.npz", pickle.dumps([1]), "is a pickle, not a NumPy archive"),
    "one array": ("w.npz", b"\x93NUMPY" + b"x" * 50, "is a single NumPy array"),
    "zip of something else": (
        "w.npz",
        archive(**{"notes.txt": b"x"}),
        "is a zip archive of something else, not a NumPy archive",
    ),
    "web page": ("w.pth", b"<!DOCTYPE html><html>", "is a web page, not a PyTorch"),
    "pointer": (
        "w.safetensors",
        b"version https://git-lfs.github.com/spec/v1\n",
        "is a Git LFS pointer",
    ),
    "hdf5": ("w.npz", b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "torchscript": (
        "w.pt",
        archive(**{"m__data.pkl": b"x", "m__constants.pkl": b"x"}),
        "is a TorchScript archive, which holds a program",
    ),
    "objects in an npz": (
        "w.npz",
        npz(**{"head.bias": np.array([{}], dtype=object)}),
        "holds pickled objects, which are never loaded",
    ),
    "text in an npz": (
        "w.npz",
        npz(names=np.array(["a"])),
        "names holds <U1, expected",
    ),
    "raw bytes in an npz": (
        "w.npz",
        archive(**{"head.bias.npy": b"no array"}),
        "not a complete .npz file",
    ),
    "no arrays": ("w.safetensors", save({}), "holds no arrays"),
    "noise of no ending": ("weights", b"\xff" * 99, "not a complete weight file"),
    "a tar archive": (
        "w.pth.tar",
        tarred(b"x"),
        "is a tar archive, not a PyTorch file",
    ),
    "json": ("w.safetensors", b'{"a": 1}', "is a JSON file, not a .safetensors file"),
    "nan": (
        "w.safetensors",
        save(state() | NAN),
        "cls_token holds values that are not",
    ),
    "nan in an npz": ("w.npz", npz(**state() | NAN), "cls_token holds values that are"),
    "infinity": ("w.safetensors", save(state() | INF), "norm.bias holds values that"),
    "wrong shape": ("w.npz", npz(**state() | SHORT), "norm.bias has shape (15,), the"),
    "names of something else": ("w.npz", npz(a=np.zeros(1)), "lacks params/"),
    "an incomplete npz": (
        "w.npz",
        npz(**{k: v for k, v in weight_files.augreg().items() if "key/b" not in k}),
        "MultiHeadDotProductAttention_1/key/bias; copy the file again",
    ),
}


def refused(path, part):
    model = create_model("vit_tiny_patch16_224", 5, **weight_files.SMALL)
    with pytest.raises(UserError) as error:
        load_pretrained(model, path)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "data", "part"), FILES.values(), ids=FILES)
def test_files(name, data, part, tmp_path):
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, part)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_no_file(tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "folder.npz", "holds no checkpoints")


def test_averages_of_a_file_that_has_none(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(SAFE)
    model = create_model("vit_tiny_patch16_224", 5, **weight_files.SMALL)
    with pytest.raises(UserError, match=r"ema=True: .* holds no averaged weights"):
        load_pretrained(model, tmp_path / "w.safetensors", ema=True)


def test_a_grid_that_nothing_reads(tmp_path):
    arrays = state()
    del arrays["pos_embed"]
    (tmp_path / "w.safetensors").write_bytes(save(arrays))
    model = create_model("vit_tiny_patch16_224", 5, **weight_files.SMALL)
    with pytest.raises(UserError, match=r"grid=\(2, 8\): .* no position table"):
        load_pretrained(model, tmp_path / "w.safetensors", grid=(2, 8), strict=False)


BOMBS = {
    "pth": ("w.pth", lambda b: b),
    "pth before 1.6": ("w.pth", lambda b: kinds.OLD_TORCH + b"." + b),
    "without an ending": ("w", lambda b: b),
    "zip without an ending": ("w", lambda b: archive(a__data__pkl=b)),
    "pth as zip": (
        "w.pth",
        lambda b: archive(**{"a__data.pkl": b, "a__version": b"3\n"}),
    ),
    "named safetensors": ("w.safetensors", lambda b: b),
    "named npz": ("w.npz", lambda b: b),
    "inside an npz": ("w.npz", lambda b: archive(**{"head.bias.npy": b})),
    "inside npy": (
        "w.npz",
        lambda b: archive(**{"head.bias.npy": _object_array_header() + b}),
    ),
}


def _object_array_header():
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        data, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    return data.getvalue()


@pytest.mark.parametrize(("name", "wrap"), BOMBS.values(), ids=BOMBS)
def test_a_pickle_bomb_does_not_go_off(name, wrap, torch, tmp_path):
    unexploded(name, wrap, tmp_path)


@pytest.mark.parametrize(("name", "wrap"), BOMBS.values(), ids=BOMBS)
def test_nor_does_it_without_torch(name, wrap, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    unexploded(name, wrap, tmp_path)


def unexploded(name, wrap, folder):
    (folder / name).write_bytes(wrap(bomb(folder)))
    refused(folder / name, name)
    assert [p.name for p in folder.iterdir()] == [name]
    pickle.loads(bomb(folder))  # it is a real one
    assert (folder / "exploded").is_dir()
