"""Report of a load, key by key."""

import dataclasses


SHOWN = 20  # most entries of one kind that are printed


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Outcome for every parameter of the model and every key of the file.

    `loaded` and `resized` hold reference keys (our paths for a workdir), `reset` our
    paths that were newly initialised, and `unused` keys of the file that the model does
    not have. `notes` holds further remarks.
    """

    source: str
    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Lists what was not loaded unchanged, one per line; long lists are cut."""
        lines = [f"{self.source}: {len(self.loaded)} arrays loaded as they are"]
        for name in ("resized", "reset", "unused"):
            entries = getattr(self, name)
            lines += [f"  {name}: {entry}" for entry in entries[:SHOWN]]
            if len(entries) > SHOWN:
                lines.append(f"  {name}: {len(entries) - SHOWN} more, in report.{name}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])
