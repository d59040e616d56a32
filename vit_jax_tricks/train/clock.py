"""Progress stored in a checkpoint beside the state, so that a run resumes exactly."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Clock:
    """Progress of a run, in addition to its state.

    Attributes:
      metrics_offset: length of metrics.jsonl.
      seconds: time spent in earlier processes.
      evaluated: the last step whose evaluation is in metrics.jsonl.
      logged: the last step whose training metrics are in metrics.jsonl.
      sums, count: sums and number of the training metrics since that line.
      best, best_step: the highest test score so far, and its step.
    """

    metrics_offset: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    logged: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    best: float = 0.0
    best_step: int = 0

    @staticmethod
    def of(meta: dict[str, Any], step: int, say: Callable[[str], None]) -> "Clock":
        """The clock in a checkpoint of this step, maybe of another version."""
        known = {f.name for f in dataclasses.fields(Clock)}
        if newer := sorted(meta.keys() - known):
            say(
                f"checkpoint {step} holds {', '.join(newer)}, unknown to this version "
                "and not used; a newer version wrote it"
            )
        fields: dict[str, Any] = {name: meta[name] for name in known & meta.keys()}
        fields.setdefault("logged", step)
        return Clock(**fields)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name in ("streak", "skipped"):
                continue
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1

    def means(self) -> dict[str, float]:
        """Means of the training metrics since the last line."""
        return {f"train/{k}": v / self.count for k, v in self.sums.items()}

    def line_written(self, step: int) -> None:
        self.logged, self.sums, self.count = step, {}, 0
