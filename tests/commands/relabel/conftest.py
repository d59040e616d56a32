"""A teacher, its data, and the command in this process."""

import PIL.Image
import pytest
import weight_files
from safetensors.numpy import save_file

from vit_jax_tricks import relabel


VIT = "vit_tiny_patch16_224"
SMALL = [f"--teacher.model.{k}={v}" for k, v in weight_files.SMALL.items()]


@pytest.fixture
def command(capsys):
    """Exit status, output and errors of the command."""

    def run(*args):
        status = relabel.main([*map(str, args)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two splits of three classes of pictures that differ in size."""
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate("abc"):
        for part, count in (("train", 5 + label), ("val", 1)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                picture = weight_files.smooth_image(20 + 3 * i, 30 - 2 * label)
                PIL.Image.fromarray(picture).save(root / part / name / f"{i}.x.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small ViT with a head of 3."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(weight_files.timm_vit(d=16, depth=1, image=16, patch=4, classes=3), path)
    return path


@pytest.fixture
def teacher(weights):
    return [f"--teacher.model={VIT}", f"--teacher.weights={weights}", *SMALL]
