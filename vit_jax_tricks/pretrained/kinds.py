"""Determines the kind of a file by its structure, not by its suffix.

The header of a `.safetensors` file begins with its own length, so its first byte can be
anything; such a file is recognised by a length and a header that fit the file. Archives
are distinguished by the names in their central directory. Only then are the first bytes
of other formats used, to name the format in a message.
"""

import pickletools
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


SAFETENSORS, NPZ, PTH = "a .safetensors file", "a NumPy archive", "a PyTorch file"
SHARDED = "an index of shards"
READ = (SAFETENSORS, NPZ, PTH, SHARDED)
TORCHSCRIPT = "a TorchScript archive"
EMPTY, UNKNOWN, CUT = "it is empty", "its start is unknown", "its archive is cut short"
ENDINGS = {
    ".safetensors": SAFETENSORS,
    ".npz": NPZ,
    ".pth": PTH,
    ".pth.tar": PTH,
    ".pt": PTH,
    ".bin": PTH,
    ".ckpt": PTH,
}
# The pickled magic number at the start of torch.save files before version 1.6.
OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
PICKLES = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
STARTS = {
    b"\x93NUMPY": "a single NumPy array",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer",
    b"\x1f\x8b\x08": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"GGUF": "a GGUF file",
    b"%PDF-": "a PDF document",
    b"\x89PNG\r\n\x1a\n": "a picture",
    b"\xff\xd8\xff": "a picture",
}
HEAD = 1024
LONGEST_HEADER = 100_000_000  # the limit of the safetensors library


def kind(path: Path) -> str:
    """Returns one of the kinds above.

    Raises:
      OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return EMPTY
    length = int.from_bytes(head[:8], "little")
    like_safetensors = head[8:9] == b"{" and length <= LONGEST_HEADER
    if like_safetensors and length + 8 <= size and _is_safetensors(path):
        return SAFETENSORS
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if head.startswith(OLD_TORCH):
        return PTH
    if like_safetensors:  # damaged; the reader reports how
        return SAFETENSORS
    return _kind_of_start(head)


def _is_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="np"):
            return True
    except (SafetensorError, OSError, ValueError):
        return False


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # the directory can be any bytes
        return CUT
    files = [name for name in names if not name.endswith("/")]
    if any(name.endswith("constants.pkl") for name in files):
        return TORCHSCRIPT
    if any(name.endswith("data.pkl") for name in files):
        return PTH
    if files and all(name.endswith(".npy") for name in files):
        return NPZ
    return "a zip archive of something else"


def _kind_of_start(head: bytes) -> str:
    for start, name in STARTS.items():
        if head.startswith(start):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(!|\?|[a-zA-Z])", text):
        return "a web page"
    if re.match(rb"[{\[]\s*[\"{\[\]}]", text):
        return SHARDED if b'"weight_map"' in head else "a JSON file"
    if _is_pickle(head):
        return "a pickle"
    return UNKNOWN


def _is_pickle(head: bytes) -> bool:
    """Whether the file starts with a pickle protocol and a known opcode."""
    known = head[2:3].decode("latin-1") in {op.code for op in pickletools.opcodes}
    return head[:2] in PICKLES and known
