"""What `import vit_jax_tricks` costs."""

import subprocess
import sys

import pytest

import vit_jax_tricks


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import vit_jax_tricks;"
        "assert time.perf_counter() - start < 2;"
        "heavy = {'tensorflow', 'torch', 'tensorflow_datasets', 'orbax', 'sklearn'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "vit_jax_tricks.create_model('deit_tiny_patch16_224');"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_resolve():
    for name in vit_jax_tricks.__all__:
        assert callable(getattr(vit_jax_tricks, name))
        assert name in dir(vit_jax_tricks)
    with pytest.raises(AttributeError, match="creat_model"):
        _ = vit_jax_tricks.creat_model
