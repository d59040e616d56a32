"""Checks whether onnxruntime's int8 products are exact on this CPU."""

import functools
import pathlib
import platform
import subprocess


CPUINFO = pathlib.Path("/proc/cpuinfo")
SYSCTL = ("sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features")
X86 = ("x86_64", "amd64", "i386", "i686", "x86")
VNNI = {"avx512vnni", "avxvnni"}  # avx512_vnni and avx_vnni on Linux


def has_vnni() -> bool | None:
    """Whether an x86 CPU accumulates int8 products in 32 bits; None if unknown."""
    features = _features()
    if not features:
        return None
    return not VNNI.isdisjoint(name.replace("_", "") for name in features)


@functools.cache
def saturates() -> bool:
    """Whether onnxruntime by default saturates sums of two int8 products at 16 bits.

    x86 CPUs without VNNI do (AVX2, and AVX-512 before 2019); an unknown x86 CPU is
    assumed to. onnxruntime's other kernels, including those for ARM, accumulate in 32
    bits. The option `session.x64quantprecision` avoids the saturation, but also
    replaces VNNI's kernels by slower ones, so it is for CPUs without VNNI only.

    Source: onnxruntime, core/mlas/lib/platform.cpp.
    """
    return platform.machine().lower() in X86 and not has_vnni()


def products() -> str:
    """Describes in words how int8 products are computed here."""
    if saturates():
        return "exact by session.x64quantprecision, since this CPU lacks VNNI"
    if platform.machine().lower() in X86:
        return "exact by VNNI"
    return f"exact on {platform.machine()}"


def _features() -> list[str]:
    """Features of an x86 CPU as Linux or macOS reports them, in lower case."""
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
