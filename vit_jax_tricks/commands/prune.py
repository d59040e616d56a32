"""Body of the command `prune`: writes a smaller model to a new workdir."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from vit_jax_tricks import config, data
from vit_jax_tricks.commands.command import Arguments
from vit_jax_tricks.commands.finetune_config import finetune_config
from vit_jax_tricks.commands.prune_table import markdown, rows, show
from vit_jax_tricks.compress.pruning.groups import KINDS
from vit_jax_tricks.compress.pruning.pruned import Pruned, prune
from vit_jax_tricks.compress.pruning.scoring import CRITERIA
from vit_jax_tricks.console import Bar, say
from vit_jax_tricks.data.sample import Sample
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.inspect.pruning_sheet import write_sheet
from vit_jax_tricks.models.pruned import FIELDS
from vit_jax_tricks.runs import evaluation, made_run, model_flags, resume
from vit_jax_tricks.runs.model_flags import Trained
from vit_jax_tricks.runs.model_inputs import model_inputs
from vit_jax_tricks.stop import Stop
from vit_jax_tricks.typing import Array


FINETUNE = "finetune.py"
IMAGES = 2048  # images for the scores, unless --images is given


def run(given: Arguments, stop: Stop) -> Path:
    """Prunes the model that a command line names and returns the new workdir.

    Raises:
      UserError: flags that contradict one another, a folder that is not empty, and as
        `prune`, `load_pretrained` and `data.build`.
    """
    options = _options(given)
    out = made_run.new_folder(given, "pruned")
    trained = model_flags.load(given, resize="area")
    made_run.check_float(trained)
    source = evaluation.open_data(trained, given)
    evaluation.check_classes(source, trained)
    with made_run.staged(out) as folder:
        sample = source.sample(given.whole("images", IMAGES) or IMAGES, "train")
        batch_size = min(given.whole("batch_size", 64) or 64, len(sample))
        batches = _Batches(trained, source, sample, batch_size, stop)
        say(f"scores on {source.name}: {sample}")
        result = prune(trained.model, trained.variables[""], batches, **options)
        table = rows(result)
        show(table)
        facts = {**options, "scores": f"{source.name}: {sample}"}
        _write(folder, out, given, trained, source, result, facts, markdown(table))
    say(f"report: {out / 'report' / 'pruning.md'}")
    made, written, tuned = (
        quote(str(out / name)) for name in ("", FINETUNE, "finetune")
    )
    say(f"measure: python -m vit_jax_tricks.evaluate --workdir={made}")
    say(
        f"fine-tune: python -m vit_jax_tricks.main --config={written} --workdir={tuned}"
    )
    return out


def _options(given: Arguments) -> dict[str, Any]:
    switches = {"heads": given.get("heads"), "hidden": given.get("mlp")}
    chosen = [kind for kind in KINDS if switches[kind]]
    return dict(
        flops=_share(given, "flops", "0.6"),
        width=_share(given, "width", "1"),
        criterion=given.choice("criterion", CRITERIA, "gradient"),
        normalize=given.choice("normalize", ("layer", "none"), "layer"),
        kinds=chosen or list(KINDS),
        min_heads=given.whole("min_heads", 1, least=0),
        min_hidden=given.whole("min_hidden", 8),
        multiple=given.whole("multiple", 8),
    )


def _share(given: Arguments, flag: str, default: str) -> float:
    text = given.get(flag, default)
    value = config.parse_value(text)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"--{flag}={text}: expected a share such as 0.6.")
    return float(value)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """The sample as model inputs, with a progress bar for each pass."""

    trained: Trained
    source: data.Data
    sample: Sample
    batch_size: int
    stop: Stop

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        spec, size = self.trained.spec, self.batch_size
        with Bar("batch", size, check=self.stop.check) as bar:
            for batch in model_inputs(
                self.source,
                self.sample,
                batch_size=size,
                mean=spec.mean,
                std=spec.std,
                progress=bar,
            ):
                yield batch["image"], batch["label"]


def _write(
    folder: Path,
    out: Path,
    given: Arguments,
    trained: Trained,
    source: data.Data,
    result: Pruned,
    options: dict[str, Any],
    table: str,
) -> None:
    """Writes the new workdir to a folder that will become `out`."""
    spec, small = trained.spec, result.model
    fields = [*FIELDS.values()]
    if options["width"] < 1:
        fields += ["embed_dim", "head_dim"]
    sizes = {f: getattr(small, f) for f in fields}
    apart = {"scan": False, "remat": small.remat}
    new = dataclasses.replace(spec, fields={**spec.fields, **sizes, **apart})
    before = made_run.config_before(given, trained)
    before["model"] |= {field: value for field, value in sizes.items() if value}
    before["model"].pop("scan", None)
    made_run.save(folder, result.variables)
    (folder / "report").mkdir()
    picture = write_sheet(folder / "report" / "pruning.png", result)
    facts = {"weights": trained.source, **options, "kinds": ", ".join(options["kinds"])}
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    text = f"# {out.name}\n\n{listed}\n\n{table}\n![kept]({picture.name})\n"
    (folder / "report" / "pruning.md").write_text(text, "utf-8", "backslashreplace")
    epochs = before["epochs"]
    if before["steps"] is not None:
        epochs = before["steps"] * before["batch_size"] / source.num_train
    share = result.macs / result.full_macs
    mixes = getattr(small, "mix_token", False)  # a teacher would see unmixed images
    written = finetune_config(
        before,
        config.defaults(),
        out,
        epochs=epochs,
        share=share,
        teacher=None if mixes else given.get("workdir"),
    )
    (folder / FINETUNE).write_text(written, "utf-8")
    names = list(source.class_names)
    resume.record(folder, config.Section(before), names, new.to_json(), [])
