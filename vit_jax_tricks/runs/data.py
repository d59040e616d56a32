"""Data for a trained model: its run's own, or any that fits it."""

from pathlib import Path
from typing import Any

from vit_jax_tricks import config, data, paths
from vit_jax_tricks.data import Data
from vit_jax_tricks.errors import Argument, UserError
from vit_jax_tricks.runs.model_spec import ModelSpec
from vit_jax_tricks.runs.trained import Trained


SPECS = "digits, digit_scenes/64, folder:PATH or tfds:NAME"


def open_data(trained: Trained, spec: str | Data | None = None, **options: Any) -> Data:
    """Opens data and checks that it has the model's classes and channels.

    Args:
      trained: the model.
      spec: a name as `data.build` takes it, viewed with the model's preprocessing; or
        data that is open already; or None, the data of the model's run.
      options: further arguments of `data.build`.

    Raises:
      UserError: data with other classes or channels, and as `data.build`.

    Example:
      source = open_data(load("runs/digits"))
    """
    if isinstance(spec, Data):
        opened = spec
    else:
        opened = data.build(**arguments(trained, spec, **options))
    check_classes(opened, trained)
    return opened


def arguments(
    trained: Trained, spec: str | None = None, **options: Any
) -> dict[str, Any]:
    """The arguments of `data.build` with which `open_data` opens a data spec.

    Raises: UserError for no data, or a model that takes no square pictures.
    """
    if spec is not None:
        own = {"name": paths.data(spec), **_preprocessing(trained.spec)}
    elif trained.workdir is not None:
        own = {**of_run(trained.workdir), "resize": trained.spec.view.resize}
    else:
        raise UserError("give ", Argument("data"), f"=SPEC: {SPECS}.")
    return {**own, **options}


def of_run(workdir: str | Path) -> dict[str, Any]:
    """The arguments of `data.build` that a run recorded; newer keys have defaults.

    Raises: UserError if its config.json is unreadable.
    """
    try:
        values = dict(config.recorded(workdir)["data"])
    except (UserError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{workdir} holds no readable config.json; give ",
            Argument("data"),
            "=SPEC.",
        ) from error
    return config.filled("data", values)


def _preprocessing(spec: ModelSpec) -> dict[str, Any]:
    view = spec.view
    h, w = view.size
    if h != w:
        raise UserError(
            f"the model takes {h}x{w} images, but data is read as squares; give ",
            Argument("img_size"),
            f"={max(h, w)}.",
        )
    crop = "center" if view.train_crop == "random_resized" else view.train_crop
    out = {"image_size": h, "train_crop": crop, "resize": view.resize}
    return out if crop == "whole" else {**out, "crop_pct": view.crop_pct}


def check_classes(source: Data, trained: Trained) -> None:
    """Raises UserError unless the data has the model's classes and channels."""
    classes = trained.num_classes
    if source.num_classes != classes:
        raise UserError(
            f"{source.name} has {source.num_classes} classes, but the model has "
            f"{classes}; give the data that it was trained on."
        )
    known = trained.spec.class_names
    if known is not None and tuple(source.class_names) != known:
        raise UserError(
            f"{source.name} has other classes than the run was trained on; give data "
            f"with {', '.join(known[:3])}, ..."
        )
    channels = trained.spec.view.channels
    if source.channels != channels:
        raise UserError(
            f"{source.name} has {source.channels} channel(s), but the model takes "
            f"{channels}; give ",
            Argument("in_chans"),
            f"={source.channels}.",
        )
