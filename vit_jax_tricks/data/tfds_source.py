"""`tfds:NAME[/CONFIG]`: data prepared by TFDS as ArrayRecord, without TensorFlow."""

import os
from typing import Any

from vit_jax_tricks.data.prepare import data_root, prepare, quiet
from vit_jax_tricks.data.source import Source, TfdsRecords
from vit_jax_tricks.data.tfds_files import check_shards, own_features
from vit_jax_tricks.errors import UserError, nearest


def digits(data_dir: str | os.PathLike | None, train: str, test: str) -> Source:
    """scikit-learn's hand-written digits, prepared on first use."""
    from vit_jax_tricks.data.digits import Digits

    root = data_root(data_dir)
    builder = prepare(lambda: Digits(data_dir=root, file_format="array_record"))
    return from_builder(builder, train, test)


def digit_scenes(
    config: Any, data_dir: str | os.PathLike | None, train: str, test: str
) -> Source:
    """Digits in photographs, prepared on first use; `config`: a name or SceneConfig."""
    from vit_jax_tricks.data.digit_scenes import DigitScenes

    root = data_root(data_dir)
    builder = prepare(
        lambda: DigitScenes(config=config, data_dir=root, file_format="array_record")
    )
    return from_builder(builder, train, test)


def named(
    name: str, data_dir: str | os.PathLike | None, train: str, test: str
) -> Source:
    """Opens a data set that TFDS has already prepared.

    Raises:
      UserError: it does not exist, or its format needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder, registered

    root = data_root(data_dir)
    recipe = (
        'Prepare it once, where TensorFlow is installed: python -c "import '
        f"tensorflow_datasets as tfds; tfds.builder('{name}', data_dir='{root}', "
        "file_format='array_record').download_and_prepare()\""
    )
    try:
        with quiet(), own_features():
            builder = read_only_builder.builder_from_files(name, data_dir=str(root))
    except UserError as error:
        raise UserError(f"tfds:{name} under {root}: {error}.") from error
    except registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = "" if name.split("/")[0] in known else nearest(name, known)
        raise UserError(
            f"tfds:{name} is not prepared under {root}.{hint} {recipe}"
        ) from error
    except Exception as error:  # damaged files fail in many ways inside TFDS
        why = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"tfds:{name} under {root} is damaged ({why}). Copy it again, or remove "
            f"it. {recipe}"
        ) from error
    kind = builder.info.file_format
    if kind is None or kind.value != "array_record":
        raise UserError(
            f"tfds:{name} under {root} is stored as {getattr(kind, 'value', kind)}, "
            f"which needs TensorFlow to read; array_record is expected. {recipe}"
        )
    return from_builder(builder, train, test)


def from_builder(builder: Any, train: str, test: str) -> Source:
    """Both splits of a prepared builder, with pictures left encoded.

    Raises:
      UserError: the features do not identify an image and a label, or a split is
        unknown or empty.
    """
    image_key, label_key = _keys(builder)
    shape = builder.info.features[image_key].shape
    label = builder.info.features[label_key]
    return Source(
        class_names=list(label.names),
        channels=1 if shape[-1] == 1 else 3,
        size=None if None in shape[:2] else tuple(shape[:2]),
        train=_split(builder, "train_split", train, image_key, label_key),
        test=_split(builder, "test_split", test, image_key, label_key),
    )


def _keys(builder: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds = tfds.features.Image, tfds.features.ClassLabel
    found = [[k for k, f in features.items() if isinstance(f, kind)] for kind in kinds]
    chosen = builder.info.supervised_keys or ()
    keys = [
        next((key for key in (*chosen, *names[:1]) if key in names), None)
        for names in found
    ]
    if keys[0] is None or keys[1] is None:
        raise UserError(
            f"tfds:{builder.name} has the features {', '.join(features)}; expected one "
            "Image and one ClassLabel for classification."
        )
    return keys[0], keys[1]


def _split(
    builder: Any, option: str, split: str, image_key: str, label_key: str
) -> TfdsRecords:
    import tensorflow_datasets as tfds

    decoders = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    have = ", ".join(f"{k} ({v.num_examples})" for k, v in builder.info.splits.items())
    try:
        data = builder.as_data_source(split=split, decoders=decoders)
        check_shards(builder.info.full_name, builder.info.splits[split])
        count = len(data)
    except UserError:
        raise
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(
            f'config.data.{option}="{split}" is not a split of {builder.name}; it has '
            f"{have}. Type a name or a part such as train[:90%]."
        ) from error
    if count == 0:
        raise UserError(f'config.data.{option}="{split}" is empty; there are {have}.')
    return TfdsRecords(data, image_key, label_key)
