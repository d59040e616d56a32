"""Opens the source that the name of a data set denotes."""

import os

from vit_jax_tricks.data.source import Source
from vit_jax_tricks.errors import UserError, nearest


SCENES = ("32", "64", "224")
NAMES = ("digits", "digit_scenes", *(f"digit_scenes/{side}" for side in SCENES))


def open_source(
    name: str,
    *,
    image_size: int | None,
    data_dir: str | os.PathLike | None,
    train_split: str,
    test_split: str,
    skip_broken: bool,
    split_seed: int,
    test_fraction: float,
) -> Source:
    """Opens a source; the arguments are those of `build`.

    Raises:
      UserError: an unknown name, and as `open_folder` and `tfds_source.named`.
    """
    kind, _, rest = str(name).partition(":")
    if kind == "folder" and rest:
        from vit_jax_tricks.data import folder

        return folder.open_folder(
            rest,
            skip_broken=skip_broken,
            split_seed=split_seed,
            test_fraction=test_fraction,
        )
    from vit_jax_tricks.data import tfds_source

    place = data_dir, train_split, test_split
    if kind == "tfds" and rest:
        return tfds_source.named(rest, *place)
    if name == "digits":
        return tfds_source.digits(*place)
    if name == "digit_scenes":
        config = str(image_size) if str(image_size) in SCENES else "64"
        return tfds_source.digit_scenes(config, *place)
    if name in NAMES:
        return tfds_source.digit_scenes(name.partition("/")[2], *place)
    raise UserError(
        f'config.data.name="{name}" is unknown.{nearest(str(name), NAMES)} '
        f"Expected: {', '.join(NAMES)}, folder:PATH or tfds:NAME."
    )
