"""The exact and slower int8 products are asked for only where the CPU needs them."""

import subprocess

import onnxruntime
import pytest

from vit_jax_tricks.export import cpu, proof


INFO = "processor\t: 0\nmodel name\t: X flags: y\nflags\t\t: {}\n\nprocessor\t: 1\n"


@pytest.fixture(autouse=True)
def forget():
    yield
    cpu.saturates.cache_clear()


def on(monkeypatch, machine, system="Linux"):
    cpu.saturates.cache_clear()
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.platform, "system", lambda: system)


@pytest.mark.parametrize(
    ("flags", "machine", "expected"),
    [
        ("fpu sse4_1 avx2 fma", "x86_64", True),
        ("avx2 avx512f avx512bw avx512vl", "x86_64", True),
        ("avx2 avx512f avx512_vnni", "x86_64", False),
        ("avx2 avx_vnni", "x86_64", False),
        ("avx2 avx512vnni", "amd64", False),
        ("avx2 avx512_vnnix xavx_vnni", "x86_64", True),
        ("", "x86_64", True),
        ("fp asimd", "aarch64", False),
    ],
)
def test_linux(monkeypatch, tmp_path, flags, machine, expected):
    on(monkeypatch, machine)
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    cpu.CPUINFO.write_text(INFO.format(flags))
    assert cpu.saturates() == expected
    assert ("session.x64quantprecision" in cpu.products()) == expected


def test_nothing_says(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    on(monkeypatch, "AMD64", "Windows")
    assert cpu.has_vnni() is None
    assert cpu.saturates()


@pytest.mark.parametrize(
    ("machine", "text", "expected"),
    [
        ("x86_64", "FPU AVX1.0\nAVX2 AVX512F AVX512VNNI\n", False),
        ("x86_64", "FPU AVX1.0\nAVX2 BMI2\n", True),
        ("arm64", "", False),
    ],
)
def test_macos(monkeypatch, machine, text, expected):
    def run(line, **_):
        assert line[0] == "sysctl"
        return subprocess.CompletedProcess(line, 0, stdout=text)

    on(monkeypatch, machine, "Darwin")
    monkeypatch.setattr(cpu.subprocess, "run", run)
    assert cpu.saturates() == expected


@pytest.mark.parametrize(
    ("exact", "saturates", "expected"),
    [(None, True, True), (None, False, False), (True, False, True)],
)
def test_the_session(monkeypatch, exact, saturates, expected):
    """The option is set where it is needed, and where it is asked for."""
    seen = []

    class Session:
        def __init__(self, source, options, providers):
            try:
                seen.append(options.get_session_config_entry(proof.PRECISE[0]))
            except RuntimeError:
                seen.append(None)

        def get_inputs(self):
            return [type("Input", (), {"name": "images"})]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(cpu, "saturates", lambda: saturates)
    proof.onnx_function(b"", exact=exact)
    assert seen == ["1" if expected else None]
