"""Config that fine-tunes a pruned model: the run's own, gentler and shorter."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from vit_jax_tricks.config import tuples


GENTLER = 0.3  # factor of the learning rate; 0.1 recovers less (docs/compression.md)
SHORTER = 0.3  # factor of the epochs
# Keys that the fine-tuning sets itself, or that belong to a single run.
_OWN = ("name", "epochs", "steps", "init", "resume", "model")
_NAMES = ("epochs", "lr", "distil (the weight of the distillation loss)")
_OWN_SCHEDULE = ("lr", "warmup_epochs")


def finetune_config(
    before: Mapping[str, Any],
    defaults: Mapping[str, Any],
    out: str | Path,
    *,
    epochs: float,
    share: float,
    teacher: str | None = None,
) -> str:
    """Text of a config file that starts from the weights in `out`.

    Args:
      before: the config of the unpruned run, with the model's new fields.
      defaults: the config of `configs/common.py`.
      out: the workdir of the pruned model.
      epochs: epochs of the unpruned run.
      share: fraction of the multiply-accumulates that was kept.
      teacher: the workdir of the unpruned run, to distil from.
    """
    rest = {k: v for k, v in before.items() if k not in _OWN}
    schedule = dict(rest["schedule"])
    lr = schedule.pop("lr") * GENTLER
    for key in _OWN_SCHEDULE:
        schedule.pop(key, None)
    lines = _changes("c", rest | {"schedule": schedule}, defaults)
    short = max(1.0, round(SHORTER * epochs, 1))
    model = [f"            {k}={_value(v)}," for k, v in before["model"].items()]
    distils = teacher is not None and not any(before.get("teacher", {}).values())
    arguments = f"epochs={short!r}, lr={lr!r}" + (", distil=0.5" if distils else "")
    lines += _distillation(teacher, before["loss"]) if distils else []
    config, workdir = (quote(f"{out}/{name}") for name in ("finetune.py", "finetune"))
    command = f"python -m vit_jax_tricks.main --config={config} --workdir={workdir}"
    return "\n".join(
        [
            f'"""Fine-tunes {before["model"]["name"]} after pruning to {share:.0%} of '
            "its multiply-accumulates.",
            "",
            f"Command: {_in_docstring(command)}",
            "Source: Michel et al., 2019, arXiv:1905.10650.",
            '"""',
            "",
            "import ml_collections",
            "",
            "from configs import common",
            "",
            "",
            'def get_config(arg: str = "") -> ml_collections.ConfigDict:',
            f'    """Arguments: {", ".join(_NAMES[: 2 + distils])}."""',
            f"    args = common.parse_arg(arg, {arguments})",
            "    c = common.get_config()",
            f"    c.name = {before['name'] + '_finetuned'!r}",
            "    c.epochs = args.epochs",
            "    c.schedule.lr = args.lr",
            "    c.schedule.warmup_epochs = 0.1 * args.epochs",
            f"    c.init = {str(out)!r}",
            *lines,
            "    c.model = ml_collections.ConfigDict(",
            "        dict(",
            *model,
            "        )",
            "    )",
            "    return c.lock()",
            "",
        ]
    )


def _in_docstring(text: str) -> str:
    """Escapes text for a docstring; names that are not valid UTF-8 are also escaped."""
    text = text.replace("\\", r"\\").replace('"', r"\"")
    return text.encode("utf-8", "backslashreplace").decode()


def _distillation(teacher: str | Path | None, loss: Mapping[str, Any]) -> list[str]:
    """Lines that distil from the unpruned model, with the weight as an argument."""
    shares = []
    if "classification" in loss:
        shares = [
            "        c.loss.classification.weight *= 1 - args.distil",
            "        c.loss.classification.dist_weight = 0.0",
        ]
    return [
        "    if args.distil:",
        f"        c.teacher.sources = ({str(teacher)!r},)  # the unpruned model",
        *shares,
        "        with c.unlocked():",
        "            c.loss.distillation = ml_collections.ConfigDict(",
        '                dict(name="soft", weight=args.distil)',
        "            )",
    ]


def _changes(path: str, ours: Mapping[str, Any], defaults: Mapping) -> list[str]:
    """Assignments for the values that differ from the defaults."""
    lines = []
    for key, value in ours.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            if key == "loss" and value.keys() != default.keys():
                lines.append(f"    {path}.{key} = {_value(value)}")
            else:
                lines += _changes(f"{path}.{key}", value, default)
        elif _value(value) != _value(default) or key not in defaults:
            lines.append(f"    {path}.{key} = {_value(value)}")
    return lines


def _value(value: Any) -> str:
    """A JSON value as Python source: lists become tuples, sections ConfigDicts."""
    if isinstance(value, Mapping):
        return f"ml_collections.ConfigDict({dict(value)!r})"
    return repr(tuples(value))
