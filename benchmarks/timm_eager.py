"""timm's DeiT-S in eager PyTorch, to compare our training step with."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import foreign_torchvision
import plain_vit


def make() -> Callable[[dict], float]:
    """Returns a training step on uint8 images, with as many threads as cores.

    It uses AdamW and label smoothing 0.1, without other regularisation.

    Raises:
      ImportError: torch or timm is not installed.
    """
    torch: Any = importlib.import_module("torch")
    foreign_torchvision.load(torch)
    model = importlib.import_module("timm").create_model("deit_small_patch16_224")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    loss_fn = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    mean, std = (
        torch.from_numpy(v)[:, None, None] for v in (plain_vit.MEAN, plain_vit.STD)
    )

    def step(batch: dict) -> float:
        images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(batch["label"]).long()
        loss = loss_fn(model((images.float() / 255 - mean) / std), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
