"""Runs the blocks of a model in turn: plain, scanned, rematerialised, with hooks.

Every family runs its blocks here, so that what is put between blocks works in all of
them.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.models.feature_maps import keep
from vit_jax_tricks.typing import Array, Float, Int


# Collections that scan stacks along a first axis for the blocks; of these, a part of
# the blocks can read the first three, and write none.
STACKED = ("params", "batch_stats", "gates", "intermediates", "features")
SLICED = STACKED[:3]
Block = Callable[..., nn.Module]  # a factory of the module


class Inputs(NamedTuple):
    """What hooks hand on: inputs of blocks, by the name of their argument, and more.

    Attributes:
      shared: of the blocks that follow in this stage.
      each: for every block of the stage, along a first axis.
      carry: anything for later hooks, also of later stages; blocks do not see it.
    """

    shared: dict[str, Any]
    each: dict[str, Any]
    carry: dict[str, Any]


@runtime_checkable
class Hook(Protocol):
    """A function between blocks; hashable, as the fields of a module must be.

    It runs before each block whose number in the whole model is in `before`, inside the
    module that holds the blocks, where it may create submodules. It may drop or merge
    tokens (`take_tokens`), and set inputs of the blocks that follow in its stage, such
    as `key_bias` [b, n] or [b, h, w]: an addition to the attention logits of each key.
    A block that takes no such input refuses it.

    Args:
      x: tokens [b, n, d] or a map [b, h, w, d].
      inputs: of the blocks that follow.
      block: the number of the next block.
      train: whether the model is trained.

    Returns:
      `x` and `inputs` for the blocks that follow.
    """

    @property
    def before(self) -> tuple[int, ...]: ...

    def __call__(
        self, x: Float[Array, "b ..."], inputs: Inputs, *, block: int, train: bool
    ) -> tuple[Float[Array, "b ..."], Inputs]: ...


class Plan(NamedTuple):
    """The fields of a model that say how its blocks are run.

    Attributes:
      scan: traces equal blocks once, with stacked parameters.
      remat: recomputes each block in the backward pass.
      hooks: functions between blocks.
    """

    scan: bool = False
    remat: bool = False
    hooks: tuple[Any, ...] = ()


def run_stack(
    blocks: Sequence[Block],
    x: Float[Array, "b ..."],
    rates: Sequence[float],
    train: bool,
    plan: Plan,
    *,
    name: str = "blocks",
    start: int = 0,
    first: int = 0,
    offset: int = 0,
    shared: Mapping[str, Any] | None = None,
    each: Mapping[str, Any] | None = None,
    carry: Mapping[str, Any] | None = None,
) -> tuple[Float[Array, "b ..."], dict[str, Any]]:
    """Applies each block in turn: block(x, drop path rate or None, train, **inputs).

    Call it from a compact module. With `plan.scan`, block `first` and the equal blocks
    that follow it are traced once, with their parameters stacked under `name`; the
    others are `name_0`, ... . A hook between scanned blocks splits the scan, but not
    the parameters.

    Args:
      blocks: factories; equal ones are the same object, or equal partials.
      x: tokens [b, n, d] or a map [b, h, w, d].
      rates: drop path rate of each block, which counts in training.
      train: whether the model is trained.
      plan: scan, remat and hooks.
      name, start: the names of the modules are `name_start` and so on; only a stack
        that starts at 0 is scanned.
      first: the first block that is scanned.
      offset: the number of the first block in the whole model.
      shared, each, carry: see `Inputs`; an input that is None is left out.

    Returns:
      The features, and what the hooks carry to the next stage.

    Raises:
      UserError: an input from a hook that the blocks do not take, and a hook between
        scanned blocks, while the model writes a collection that has an entry for each
        block.
    """
    inputs = Inputs(_given(shared), _given(each), _given(carry))
    drops = rates if train and any(rates) else None
    made = _rematerialised(plan.scan) if plan.remat else _same
    i = 0
    while i < len(blocks):
        stacked = plan.scan and not start and i == first
        x, inputs = _hooked(plan.hooks, x, inputs, offset + i, train, blocks[i])
        if not stacked:
            own = {key: values[i] for key, values in inputs.each.items()}
            block = made(blocks[i])(name=f"{name}_{start + i}")
            rate = None if drops is None else drops[i]
            x, i = block(x, rate, train, **inputs.shared, **own), i + 1
            keep(block, x)
            continue
        equal = [*(_equal(blocks[i], block) for block in blocks[i:]), False]
        end = i + equal.index(False)
        cuts = [n for n in range(i + 1, end) if _hooks_at(plan.hooks, offset + n)]
        block = made(blocks[i])(name=name)
        scan = partial(_scanned, drops=drops, train=train, whole=(i, end))
        if cuts and block.is_initializing():
            scan(block, x, inputs, (i, end))
        for low, high in zip([i, *cuts], [*cuts, end], strict=True):
            if low > i:
                x, inputs = _hooked(
                    plan.hooks, x, inputs, offset + low, train, blocks[i]
                )
            x = scan(block, x, inputs, (low, high))
        i = end
    return x, inputs.carry


def check_hooks(model: Any) -> None:
    """Raises UserError for a hook that is none, or that would never run."""
    for hook in model.hooks:
        if not isinstance(hook, Hook):
            raise UserError(
                f"hooks: {hook!r} is no hook; give functions with the attribute "
                "`before`, as models.stack.Hook describes."
            )
        count = len(model.blocks())
        if absent := [n for n in hook.before if n not in range(count)]:
            raise UserError(
                f"hooks: before={tuple(hook.before)} names block {absent[0]}, and "
                f"{type(model).__name__} has the blocks 0 to {count - 1}."
            )


def take_tokens(
    x: Float[Array, "b n d"], inputs: Inputs, index: Int[Array, "b m"]
) -> tuple[Float[Array, "b m d"], Inputs]:
    """Keeps the tokens at `index`, and what belongs to them in rope, bias, key_bias."""
    take = jnp.take_along_axis

    def taken(values: Mapping[str, Any], at: Int[Array, "*l b m"]) -> dict[str, Any]:
        kept = dict(values)
        if "rope" in kept:  # [*l, #b, n, #g, e]
            kept["rope"] = take(kept["rope"], at[..., None, None], axis=-3)
        if "bias" in kept:  # [*l, #b, #g, n, n]
            rows = take(kept["bias"], at[..., None, :, None], axis=-2)
            kept["bias"] = take(rows, at[..., None, None, :], axis=-1)
        if "key_bias" in kept:  # [*l, b, n]
            kept["key_bias"] = take(kept["key_bias"], at, axis=-1)
        return kept

    shared, each = taken(inputs.shared, index), taken(inputs.each, index[None])
    return take(x, index[:, :, None], axis=1), inputs._replace(shared=shared, each=each)


def _scanned(
    block: nn.Module,
    x: Float[Array, "b ..."],
    inputs: Inputs,
    part: tuple[int, int],
    *,
    drops: Sequence[float] | None,
    train: bool,
    whole: tuple[int, int],
) -> Float[Array, "b ..."]:
    """Runs the blocks from part[0] to part[1] of a stacked module in one scan."""
    low, high = part

    def body(block: nn.Module, x: Array, rate: Any, own: Any, shared: Any) -> Any:
        x = block(x, rate, train, **shared, **own)
        keep(block, x)
        return x, None

    axes: Any = (0, 0, nn.broadcast)
    scan: Any = nn.scan(
        body,
        variable_axes=dict.fromkeys(STACKED, 0),
        split_rngs={"params": True, "dropout": True},
        in_axes=axes,
        length=high - low,
    )
    if part != whole:
        written = [c for c in STACKED if block.is_mutable_collection(c)]
        if written and not block.is_initializing():
            raise UserError(
                f'scan=True with hooks between blocks cannot write "{written[0]}"; use '
                "scan=False."
            )
        first = whole[0]
        scan = nn.map_variables(
            scan,
            SLICED,
            trans_in_fn=lambda tree: jax.tree.map(
                lambda leaf: leaf[low - first : high - first], tree
            ),
        )
    rates = None if drops is None else jnp.asarray(drops[low:high], jnp.float32)
    own = {key: jnp.asarray(values[low:high]) for key, values in inputs.each.items()}
    return scan(block, x, rates, own, inputs.shared)[0]


def _given(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (inputs or {}).items() if value is not None}


def _hooks_at(hooks: Sequence[Any], block: int) -> list[Any]:
    return [hook for hook in hooks if block in hook.before]


def _hooked(
    hooks: Sequence[Any],
    x: Float[Array, "b ..."],
    inputs: Inputs,
    block: int,
    train: bool,
    made: Block,
) -> tuple[Float[Array, "b ..."], Inputs]:
    """Applies the hooks that run before a block, in order; `made` is its factory."""
    for hook in _hooks_at(hooks, block):
        x, inputs = hook(x, inputs, block=block, train=train)
        for name in (*inputs.shared, *inputs.each):
            refuse_unless_taken(made, name)
    return x, inputs


def refuse_unless_taken(factory: Block, name: str) -> None:
    """Raises UserError unless the modules of a factory take an input of this name."""
    kind: Any = factory
    while isinstance(kind, partial):
        kind = kind.func
    if name not in inspect.signature(kind.__call__).parameters:
        raise UserError(
            f"hooks: {kind.__name__} takes no {name}; change only the features of such "
            "blocks, or use a deit_, swin_, t2t_vit_ or lvvit_ name."
        )


def _equal(one: Block, other: Block) -> bool:
    """Whether two factories make equal modules."""
    if isinstance(one, partial) and isinstance(other, partial):
        mine, theirs = ((p.func, p.args, p.keywords) for p in (one, other))
        return mine == theirs
    return one is other


def _same(block: Block) -> Block:
    return block


def _rematerialised(scan: bool) -> Callable[[Block], Block]:
    """Makes factories of blocks that are recomputed in the backward pass."""

    @lru_cache
    def lifted(kind: type[nn.Module]) -> type[nn.Module]:
        return nn.remat(kind, prevent_cse=not scan, static_argnums=(3,))  # train

    def made(block: Block) -> Block:
        if isinstance(block, partial):
            return partial(lifted(block.func), *block.args, **block.keywords)
        return lifted(block)

    return made
