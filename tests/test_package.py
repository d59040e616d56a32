"""What gets installed."""

import tomllib
from pathlib import Path


def test_every_package_is_listed():
    listed = set(
        tomllib.loads(Path("pyproject.toml").read_text())["tool"]["setuptools"][
            "packages"
        ]
    )
    found = {
        ".".join(p.parent.parts) for p in Path("vit_jax_tricks").rglob("__init__.py")
    }
    assert listed == found | {"vit_jax_tricks.configs"}


def test_no_file_is_long():
    folders = ("vit_jax_tricks", "configs", "tests", "benchmarks")
    files = [p for f in folders for p in Path(f).rglob("*.py")]
    lengths = {str(p): len(p.read_text().splitlines()) for p in files}
    assert {p: n for p, n in lengths.items() if n > 500} == {}
    ours = sorted(n for p, n in lengths.items() if p.startswith("vit_jax_tricks"))
    assert ours[len(ours) // 2] < 150
