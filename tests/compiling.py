"""Compiling as users do, where the suites' short cuts would hide something."""

import functools

import jax


# XLA's own values of what COMPILE_SOON of conftest.py changes.
DEFAULTS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_enable_concurrency_optimized_scheduler": True,
    "xla_cpu_copy_insertion_use_region_analysis": True,
}
if jax.__version_info__ < (0, 11):
    DEFAULTS |= {"xla_cpu_use_fusion_emitters": True}

by_default = functools.partial(jax.jit, compiler_options=DEFAULTS)
