"""Read-only view of a config that remembers which keys were read."""

from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax_tricks.errors import UserError, nearest


class Section(Mapping[str, Any]):
    """Read-only view of a config (section) that remembers what was read.

    `section.key`, `section["key"]` and `**section` count as reading.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        path: str = "config",
        unread: set[str] | None = None,
    ):
        self._path = path
        self._unread: set[str] = set() if unread is None else unread
        self._values: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, Mapping):
                value = Section(value, f"{path}.{key}", self._unread)
            else:
                self._unread.add(f"{path}.{key}")
            self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            full = f"{self._path}.{key}"
            raise UserError(f"{full}: no such key.{nearest(key, self._values)}")
        self._unread.discard(f"{self._path}.{key}")
        return self._values[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        return self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def without(self, *keys: str) -> dict[str, Any]:
        """The section as keyword arguments without `keys` (which stay unread)."""
        return {k: self[k] for k in self._values if k not in keys}

    def to_dict(self) -> dict[str, Any]:
        """A plain nested dict; does not count as reading."""
        return {
            k: v.to_dict() if isinstance(v, Section) else v
            for k, v in self._values.items()
        }

    def assert_all_read(self) -> None:
        """Raises UserError if some key was never read, as it would have no effect."""
        if self._unread:
            keys = ", ".join(sorted(self._unread))
            raise UserError(
                f"nothing in this run reads {keys}; remove it, or choose the option "
                "that uses it."
            )
