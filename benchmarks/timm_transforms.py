"""Times timm's own pipeline on Pillow images: CPU time per image, as JSON.

Needs torch and timm, not this package; benchmarks/augment.py starts it.
"""

import contextlib
import json
import sys
import time

import foreign_torchvision
import numpy as np
import torch  # pyright: ignore[reportMissingImports]


foreign_torchvision.load(torch)

import PIL.Image  # noqa: E402
from timm.data import Mixup  # noqa: E402  # pyright: ignore[reportMissingImports]
from timm.data.transforms_factory import (  # noqa: E402  # pyright: ignore
    transforms_imagenet_train,
)


def main() -> None:
    """Times every pipeline of argv[2], a JSON dict, on the images of argv[1]."""
    torch.set_num_threads(1)
    images = [PIL.Image.fromarray(image) for image in np.load(sys.argv[1])]
    labels = torch.arange(len(images))
    result = {}
    for name, options in json.loads(sys.argv[2]).items():
        rounds, jitter = options.pop("rounds"), options.get("color_jitter")
        transform = transforms_imagenet_train(
            224,
            interpolation="bicubic",
            force_color_jitter=jitter is not None,
            **options,
        )
        mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=1000)
        seconds = []
        for _ in range(rounds):
            began = time.process_time()
            tensors = []
            for image in images:
                done = False
                while not done:  # posterizing to 0 bits raises: draw again
                    with contextlib.suppress(ValueError):
                        tensors.append(transform(image))
                        done = True
            mixup(torch.stack(tensors), labels)
            seconds.append((time.process_time() - began) / len(images))
        result[name] = seconds
    print(json.dumps(result))


if __name__ == "__main__":
    main()
