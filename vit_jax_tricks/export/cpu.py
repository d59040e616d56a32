"""Whether int8 products are exact on this CPU, as onnxruntime computes them."""

import functools
import pathlib
import platform
import subprocess


CPUINFO = pathlib.Path("/proc/cpuinfo")
SYSCTL = ("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
X86 = ("x86_64", "amd64", "i386", "i686", "x86")
VNNI = {"avx512vnni", "avxvnni"}  # avx512_vnni and avx_vnni on Linux


def has_vnni() -> bool | None:
    """Whether an x86 CPU adds int8 products in 32 bits; None where nothing says."""
    features = _features()
    if not features:
        return None
    return not VNNI.isdisjoint(name.replace("_", "") for name in features)


@functools.cache
def saturates() -> bool:
    """Whether sums of two products are cut off at 16 bits unless onnxruntime is told.

    x86 without VNNI does so (AVX2, AVX-512 before 2019), and is assumed where nothing
    says. onnxruntime's other kernels, those of ARM among them, add in 32 bits. The
    option against it, `session.x64quantprecision`, also replaces VNNI's kernels by
    slower ones where there are some, so it is for such CPUs alone.
    Source: onnxruntime, core/mlas/lib/platform.cpp.
    """
    return platform.machine().lower() in X86 and not has_vnni()


def products() -> str:
    """In words, how int8 products are computed here."""
    if saturates():
        return "exact by session.x64quantprecision, as this CPU has no VNNI"
    if platform.machine().lower() in X86:
        return "exact by VNNI"
    return f"exact on {platform.machine()}"


def _features() -> list[str]:
    """What Linux or macOS says of an x86 CPU, in lower case."""
    try:
        if platform.system() == "Darwin":
            found = subprocess.run(
                SYSCTL, capture_output=True, text=True, timeout=10, check=False
            )
            return found.stdout.lower().split()
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    named = (line.partition(":") for line in lines)
    flags = (text for name, _, text in named if name.strip() == "flags")
    return next(flags, "").lower().split()
