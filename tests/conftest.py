"""Strict by default: no silent promotion, no silent broadcasting, eight devices."""

import collections
import functools
import gc
import importlib
import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path


os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# The suites spend their time compiling small programs that run once: LLVM optimises
# none of them, two passes of XLA are left out, and its older code generator for CPUs
# needs a third of the time of the one that it uses by default. Newer versions stop at
# that one's flag. `compiling.by_default` is what users have. Compiling each program in
# one piece would be faster still, but Lanczos resizing then differs from Pillow's.
COMPILE_SOON = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    "--xla_cpu_copy_insertion_use_region_analysis=false",
]
if jax.__version_info__ < (0, 11):
    COMPILE_SOON += ["--xla_cpu_use_fusion_emitters=false"]
PROGRAMS = "TESTS_PROGRAMS"  # a folder of compiled programs, for several runs of pytest


def pytest_configure(config):
    """Sets how XLA compiles, and one folder of programs for all workers.

    Tests send signals, which nohup and shells in the background have ignored.
    """
    for signum, handler in SIGNALS.items():
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, handler)
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *COMPILE_SOON])
    if PROGRAMS not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="programs-")
        config.add_cleanup(folder.cleanup)
        os.environ[PROGRAMS] = folder.name


def share_contexts(programs: int = 50) -> None:
    """Lets so many programs share a context of MLIR; JAX makes one for each, in 4 ms.

    A context keeps the constants of its programs, so it is not shared by all. The
    function is private to JAX: where it has gone, each program makes its own.
    """
    try:
        from jax._src.interpreters import mlir

        make_one = mlir.make_ir_context
    except (ImportError, AttributeError):
        return
    make = functools.lru_cache(1)(lambda _: make_one())
    made = itertools.count()
    mlir.make_ir_context = lambda: make(next(made) // programs)


share_contexts()


def pytest_collection_finish():
    """Thousands of tests and modules stay: the collector need not walk them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data, caches and compiled programs of the command line, away from the user's."""
    base = tmp_path_factory.getbasetemp()
    jax_cache = {
        "jax_compilation_cache_dir": os.environ[PROGRAMS],
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


@pytest.fixture(scope="module")
def programs():
    """What the experiments of a module share, if its tests ask for `sharing`."""
    return {}


@pytest.fixture
def sharing(programs):
    """Compiles the programs of a config once a module (see `shared_programs.py`)."""
    import shared_programs  # not before the hook of the annotations is installed

    with shared_programs.shared(programs):
        yield


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


LONGEST = Path(__file__).with_name("longest.txt").read_text().split()
RANKS = {file: rank for rank, file in enumerate(LONGEST)}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that use the fixture `torch` can be chosen by `-m torch`.

    A worker takes whole files: the longest come first, so that none is left to one
    worker at the end.
    """
    for item in items:
        if "torch" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.torch)
    items.sort(key=lambda item: RANKS.get(item.nodeid.partition("::")[0], len(RANKS)))


SECONDS = collections.Counter()


def pytest_runtest_logreport(report):
    """Sums the time of each file's tests and fixtures."""
    SECONDS[report.nodeid.partition("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter):
    """Shows where the time went; `longest.txt` and CONTRIBUTING.md follow it."""
    folders = collections.Counter()
    for file, seconds in SECONDS.items():
        folders[str(Path(file).parent)] += seconds
    for title, counted in (("slowest files", SECONDS), ("slowest folders", folders)):
        terminalreporter.section(f"{title}, seconds of one core")
        for name, seconds in counted.most_common(10):
            terminalreporter.write_line(f"{seconds:7.1f}  {name}")
