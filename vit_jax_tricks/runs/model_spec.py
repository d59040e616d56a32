"""Everything a model's outputs depend on: the `model.json` of a workdir.

Fields (including LayerNorm's epsilon and the activation), normalisation, crop and
resampling travel together, so that a run predicts as it was evaluated.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_tricks import __version__, config, paths
from vit_jax_tricks.config import tuples
from vit_jax_tricks.data.views import View
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models import create_model
from vit_jax_tricks.models.base import ImageModel
from vit_jax_tricks.models.registry import channel_statistics, preprocessing


FILE = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model to build, with the preparation of its pictures.

    Attributes:
      name: a name of `list_models()`.
      fields: overrides of `create_model`, including `num_classes`.
      mean, std: for each channel, of pixels in [0, 1].
      view: converts the bytes of a file to uint8 pixels.
      class_names: in the order of the logits, if known.
      quant: its quantisation, as `quant_config.rules_of` takes it, or None.
    """

    name: str
    fields: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    view: View
    class_names: tuple[str, ...] | None = None
    quant: Mapping[str, Any] | None = None

    def create(self) -> ImageModel:
        return create_model(self.name, **self.fields)

    def override(self, **fields: Any) -> "ModelSpec":
        """Changes fields; pictures get the size that they imply."""
        new = dataclasses.replace(self, fields={**self.fields, **fields})
        model: Any = new.create()
        h, w, channels = model.image_shape
        if channels != self.view.channels:
            raise UserError(
                f"in_chans={channels}: the model was trained on {self.view.channels} "
                "channel(s), which its pictures are read with; leave it out."
            )
        return dataclasses.replace(
            new, view=dataclasses.replace(self.view, size=(h, w))
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the class names, which are in `classes.json`."""
        out = dataclasses.asdict(self)
        del out["class_names"]
        if self.quant is None:
            del out["quant"]
        return out


def named(name: str, *, resize: str | None = None, **fields: Any) -> ModelSpec:
    """A model by name, with its own preprocessing.

    Args:
      name: a name of `list_models()`.
      resize: as in `data.build`; by default the reference's.
      fields: overrides of `create_model`.
    """
    model: Any = create_model(name, **fields)
    h, w, channels = model.image_shape
    if channels not in (1, 3):
        raise UserError(
            f"in_chans={channels}: pictures are read in 1 or 3 channels only."
        )
    prep = preprocessing(name)
    mean, std = channel_statistics(name, channels)
    view = View(
        size=(h, w),
        channels=channels,
        train_crop=prep.crop_mode,
        crop_pct=prep.crop_pct,
        resize=resize or f"pil_{prep.interpolation}",
    )
    return ModelSpec(name, fields, mean, std, view)


def fields_of(model: nn.Module) -> dict[str, Any]:
    """Every field of a model, as `create_model` takes it.

    Raises: UserError for hooks, which are code.
    """
    if model.hooks:
        raise UserError(
            "a model with hooks cannot be recorded, since they are code; build it from "
            "the model of the run: model.clone(hooks=...)."
        )
    return {
        field.name: _plain(field.name, getattr(model, field.name))  # of any family
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name", "hooks")
    }


def read(workdir: str | Path) -> ModelSpec:
    """The model of the run in a workdir.

    Raises:
      UserError: there is none, or its files are unreadable.
    """
    workdir = paths.absolute(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir} does not exist; give the workdir of a run.")
    try:
        spec = tuples(json.loads((workdir / FILE).read_text("utf-8")))
        names = tuples(json.loads((workdir / "classes.json").read_text("utf-8")))
        named = isinstance(names, tuple) and all(isinstance(n, str) for n in names)
        if not named or len(names) != spec["fields"]["num_classes"]:
            raise ValueError
        _check_known(workdir / FILE, spec, ModelSpec)
        _check_known(workdir / FILE, spec["view"], View)
        return ModelSpec(**spec | {"view": View(**spec["view"]), "class_names": names})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        if (other := config.task_of_run(workdir)) != config.defaults()["task"]:
            raise UserError(
                f"{workdir} is a run of the task {other}, which trains no single image "
                "classifier; give another run."
            ) from error
        raise UserError(
            f"{workdir} holds no run with a readable {FILE} and classes.json; start "
            "the training command of the run again, which writes them."
        ) from error


def _check_known(file: Path, values: Mapping[str, Any], kind: type) -> None:
    """Raises UserError for entries of a newer version, as numbers may need them."""
    unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(kind)})
    if unknown:
        raise UserError(
            f"{file} holds {', '.join(unknown)}, unknown to this version "
            f"({__version__}); use the version that wrote it (config.json says which)."
        )


def _plain(name: str, value: Any) -> Any:
    return jnp.dtype(value).name if name in ("dtype", "param_dtype") else value
