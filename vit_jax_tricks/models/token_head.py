"""The form in which a model classifies the places of an image."""

import dataclasses

from vit_jax_tricks.typing import Array, Float


@dataclasses.dataclass(frozen=True)
class TokenHead:
    """The way a model gives token logits, on a grid of (rows, columns).

    `name` is "dense head"; "head at each place", whose mean over the places is the
    image's logits; or "head at each place, an approximation".
    """

    name: str
    grid: tuple[int, int]

    @classmethod
    def of_model(cls, grid: tuple[int, int]) -> "TokenHead":
        """A head for the tokens that the model itself has."""
        return cls("dense head", grid)

    @classmethod
    def at_each_place(cls, grid: tuple[int, int], *, exact: bool) -> "TokenHead":
        """The classifier of the pooled feature, applied at each place.

        `exact` says whether the feature is the mean over the places.
        """
        name = "head at each place"
        return cls(name if exact else f"{name}, an approximation", grid)

    @property
    def dense(self) -> bool:
        """Whether the model has a head for tokens, with the output `logits_aux`."""
        return self.name == "dense head"

    @property
    def exact(self) -> bool:
        """Whether these logits are what the image's logits are made of."""
        return "approximation" not in self.name

    def places(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
        """The tokens of the grid, without the prefix tokens before them."""
        return tokens[:, -self.grid[0] * self.grid[1] :]
