"""Estimates the memory of a training step on a TPU, without having one.

    pip install libtpu==0.0.42.1
    python benchmarks/tpu_memory.py --batch=128 --data=digit_scenes

Compiles configs/deit_s.py with its whole augmentation ahead of time, in bfloat16 for
one v5e chip (15.75 GiB), and again without augmentation. Nothing runs on a TPU.
"""

import argparse
import json
import os


os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

from jax.experimental import topologies

from vit_jax_tricks import config
from vit_jax_tricks.train import experiment


CROP = {"augment.crop": "random_resized", "augment.color_jitter": "0.4"}
PLAIN = {
    "augment.auto_augment": "none",
    "augment.erasing": "0",
    "augment.mixup": "0",
    "augment.cutmix": "0",
}


def main() -> None:
    """Compiles both and prints their memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--data", default="digit_scenes")
    options = parser.parse_args()
    chip = topologies.get_topology_desc(
        platform="tpu",
        topology_name="v5e:1x1",
        chips_per_host_bounds=(1, 1, 1),
    ).devices
    spec = f"configs/deit_s.py:data={options.data},batch_size={options.batch}"
    common = {"dtype": "bfloat16", "data.repeats": "1", "model.scan": "True"}
    common["model.remat"] = "True"
    for name, changes in (("full stack", CROP), ("plain", PLAIN)):
        x = experiment.build(
            config.load(spec, (common | changes).items()), devices=chip
        )
        memory = x.compile_train_step().memory_analysis()
        sizes = {
            part: round(getattr(memory, f"{part}_size_in_bytes") / 2**20, 1)
            for part in ("argument", "output", "alias", "temp")
        }
        print(name, json.dumps(sizes), "MiB", flush=True)


if __name__ == "__main__":
    main()
