"""The config that trains a pruned model on: the run's own, gentler and shorter."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from vit_jax_tricks.config import tuples


GENTLER = 0.3  # of the learning rate; a tenth recovers less (docs/compression.md)
SHORTER = 0.3  # of the epochs
# What the fine-tuning decides, or what belongs to a run.
_OWN = ("name", "epochs", "steps", "init", "resume", "model")
_NAMES = ("epochs", "lr", "distil (the weight of the unpruned model's word)")
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
    """The text of a config file that starts from the weights in `out`.

    Args:
      before: the config of the unpruned run, with the model's new fields.
      defaults: that of `configs/common.py`.
      out: the workdir of the pruned model.
      epochs: of the unpruned run.
      share: of the multiply-accumulates that stayed.
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
    """As it may stand there; a name that is no UTF-8 becomes escapes."""
    text = text.replace("\\", r"\\").replace('"', r"\"")
    return text.encode("utf-8", "backslashreplace").decode()


def _distillation(teacher: str | Path | None, loss: Mapping[str, Any]) -> list[str]:
    """Learning from the unpruned model, whose weight is an argument."""
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
    """Assignments of what differs from the defaults."""
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
    """A value of JSON as Python: lists are tuples, sections ConfigDicts."""
    if isinstance(value, Mapping):
        return f"ml_collections.ConfigDict({dict(value)!r})"
    return repr(tuples(value))
