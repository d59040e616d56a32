"""Strict by default: no silent promotion, no silent broadcasting, eight devices."""

import importlib
import os
import shutil
import signal
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# The suites spend their time compiling small programs that run once. Two passes less
# make that shorter, and XLA's older code generator for CPUs needs two thirds of the
# time of the one that it uses by default; newer versions stop at its flag, so that
# there the suites run with the default.
COMPILE_SOON = [
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    "--xla_cpu_copy_insertion_use_region_analysis=false",
]
if jax.__version_info__ < (0, 11):
    COMPILE_SOON += ["--xla_cpu_use_fusion_emitters=false"]
OPTIMISE_NOTHING = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]


def pytest_configure(config):
    """Both suites compile soon; LLVM optimises for the slow one alone.

    Tests send signals, which nohup and shells in the background have ignored.
    """
    for signum, handler in SIGNALS.items():
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)
    quick = "not slow" in config.option.markexpr
    flags = COMPILE_SOON + (OPTIMISE_NOTHING if quick else [])
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])


SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data, caches and compiled programs of the command line, away from the user's."""
    base = tmp_path_factory.getbasetemp()
    jax_cache = {
        "jax_compilation_cache_dir": str(base / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in jax_cache}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(base / "tfds"))
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        for name, value in jax_cache.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))  # for child processes
        compilation_cache.reset_cache()
        yield base
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """A finished run of `runs.TINY`, made once in a process and copied for a module."""
    import runs  # not before the hook of the annotations is installed

    first = home / "tiny_run"
    if not first.exists():
        runs.train(workdir=first)
    return Path(shutil.copytree(first, tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture
def x64():
    """Run one test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def torch():
    """The real torch, which reads `.pth` files; CI demands it, others may lack it."""
    if os.environ.get("TORCH_IS_HERE"):
        return importlib.import_module("torch")
    return pytest.importorskip("torch")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that use the fixture `torch` can be chosen by `-m torch`."""
    for item in items:
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.torch)
