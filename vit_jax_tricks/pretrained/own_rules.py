"""Key names of a family without a reference: its own paths."""

from vit_jax_tricks.pretrained.rules import KeyNames, KeyRule


_HEAD = [f"params/head/{name}" for name in ("kernel", "bias")]
OWN = KeyNames(
    {"own": [*(KeyRule(p, p, head=True) for p in _HEAD), KeyRule("{*}", "{*}")]}
)
