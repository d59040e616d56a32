"""Report of a run: curves as PNG and a summary in Markdown, from its metrics."""

from pathlib import Path
from typing import Any

from vit_jax_tricks.storage.manifest import write_durably
from vit_jax_tricks.train import metrics


def exists(workdir: Path) -> bool:
    """Whether the report was written completely."""
    return (Path(workdir) / "report" / "summary.md").exists()


def write(workdir: Path, facts: dict[str, Any], score: str = "accuracy") -> Path:
    """Writes `report/` under `workdir` and returns the summary's path.

    Args:
      workdir: the run's; its `metrics.jsonl` is read.
      facts: rows of the summary's table, such as devices and parameters.
      score: the metric of the best checkpoint.
    """
    lines = metrics.read(workdir)
    folder = Path(workdir) / "report"
    folder.mkdir(exist_ok=True)
    pictures = [
        name
        for name, (label, keys) in _curves(score).items()
        if _plot(folder / name, lines, label, keys)
    ]
    text = _summary(workdir, lines, facts, pictures, score)
    write_durably(folder / "summary.md", text)  # the last of the report's files
    return folder / "summary.md"


def _curves(score: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The pictures: name -> axis and metrics."""

    def over(name: str) -> tuple[str, tuple[str, ...]]:
        return name, (f"train/{name}", f"test/{name}", f"test/{name}_ema")

    return {
        "loss.png": over("loss"),
        f"{score}.png": over(score),
        "learning_rate.png": ("learning rate", ("train/lr",)),
    }


def _series(lines: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    pairs = [(m["step"], m[key]) for m in lines if m.get(key) is not None]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _plot(path: Path, lines: list[dict], label: str, keys: tuple[str, ...]) -> bool:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    found = False
    for key in keys:
        steps, values = _series(lines, key)
        if values:
            found = True
            axes.plot(steps, values, label=key, marker="." if len(steps) < 30 else "")
    if found:
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right")
        FigureCanvasAgg(figure).print_png(str(path))
    return found


def _summary(
    workdir: Path,
    lines: list[dict],
    facts: dict[str, Any],
    pictures: list[str],
    score: str,
) -> str:
    rows = [("| | |"), ("|---|---|")]
    rows += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    for key in (f"test/{score}", f"test/{score}_ema"):
        steps, values = _series(lines, key)
        if values:
            best = max(range(len(values)), key=values.__getitem__)
            rows.append(f"| {key}, last | {values[-1]:.4f} at step {steps[-1]} |")
            rows.append(f"| {key}, best | {values[best]:.4f} at step {steps[best]} |")
    images = "\n\n".join(f"![{name}]({name})" for name in pictures)
    title = " ".join(Path(workdir).name.split())
    return f"# {title}\n\n" + "\n".join(rows) + f"\n\n{images}\n"


def _cell(value: Any) -> str:
    """A value as one cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
