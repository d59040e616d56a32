"""Experiments of one config that share their compiled programs and decoded digits.

A run is built from its config as ever; what is left out is tracing and compiling the
same programs again. For tests that run one config many times and check something else.
Tests that change a model, the augmentation or the step by a patch may not share.
"""

import contextlib
import functools
import json
from collections.abc import Iterator

import pytest

from vit_jax_tricks.data import memory
from vit_jax_tricks.train.experiment import Experiment


OF_THE_LOOP = ("name", "resume", "checkpoint", "log")


def _key(x: Experiment) -> str:
    """All that a program depends on; of the data's name, only what it stands for."""
    config = x.config.to_dict()
    name = config["data"].pop("name")
    size = x.task.facts.get("data", "").rpartition(": ")[2]
    given = {key: value for key, value in config.items() if key not in OF_THE_LOOP}
    kind = name.partition(":")[0], size, x.task.num_train
    return json.dumps([given, kind, [str(d) for d in x.mesh.devices.flat]], default=str)


@contextlib.contextmanager
def shared(programs: dict) -> Iterator[None]:
    """Keeps what is compiled or decoded in `programs`, and takes it from there."""

    def once(method):
        @functools.wraps(method)
        def compiled(x, *args):
            key = method.__name__, args, _key(x)
            if key not in programs:
                programs[key] = method(x, *args)
            return programs[key]

        return compiled

    def load(records, view, title, original=memory.load):
        if not title.startswith("digits "):
            return original(records, view, title)
        key = title, repr(view)
        if key not in programs:
            programs[key] = original(records, view, title)
        return programs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "load", load)
        for name in ("compile_train_step", "compile_eval_step"):
            patch.setattr(Experiment, name, once(getattr(Experiment, name)))
        yield
