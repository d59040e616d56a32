"""What a load did, key by key."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The fate of every parameter of the model and every key of the file.

    `loaded` and `resized` hold reference keys, `reset` our paths (drawn anew),
    `unused` keys of the file that the model has no place for.
    """

    source: str
    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} arrays loaded as they are"]
        for name in ("resized", "reset", "unused"):
            entries = getattr(self, name)
            lines += [f"  {name}: {entry}" for entry in entries]
        return "\n".join(lines)
