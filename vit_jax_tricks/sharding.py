"""The device mesh, and the rules that place every array on it.

Axes: `data` replicates parameters and splits the batch, `fsdp` splits both, and
`tensor` splits heads and hidden units. One jit with `NamedSharding` serves every
combination.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_jax_tricks.errors import UserError
from vit_jax_tricks.param_names import GENERAL, ParameterRoles, path_str
from vit_jax_tricks.typing import Array, PRNGKeyArray


AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the mesh axes that split the batch

FSDP_MIN_SIZE = 2**16  # smaller parameters are cheaper to replicate than to gather


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Creates a mesh with axes data, fsdp, tensor; one size may be -1: the rest.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    known = math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if any(s < 1 for s in sizes) or math.prod(sizes) != len(devices):
        raise UserError(
            f"config.mesh data={data} fsdp={fsdp} tensor={tensor} does not fit "
            f"{len(devices)} device(s): the product must be the number of devices, "
            "and one of them may be -1 for the remainder."
        )
    return jax.make_mesh(
        tuple(sizes), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES)
    )


def constrain(x: Array, *axes: str | None) -> Array:
    """Pins the first dimension of activations to the batch axes, the rest to `axes`.

    Without this, XLA under FSDP gathers activations instead of parameters, which
    exhausts memory. Identity when no mesh is set (`jax.set_mesh`).
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH, *axes))


def each_shard(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn(key, *arrays), run by each device on its own part of the batch.

    The arrays may be trees of them; the key is whole on each device, or None. For
    functions that treat examples independently but whose program looks at all of
    them (sorting, loops). Identity when no mesh is set (`jax.set_mesh`).
    """

    def on_shards(key: PRNGKeyArray | None, *arrays: Any) -> Any:
        if jax.sharding.get_abstract_mesh().empty:
            return fn(key, *arrays)
        batch = PartitionSpec(BATCH)
        specs = (PartitionSpec(), *[batch] * len(arrays))
        # Devices along `tensor` repeat the same work, which JAX cannot verify.
        sharded = jax.shard_map(fn, in_specs=specs, out_specs=batch, check_vma=False)
        return sharded(key, *arrays)

    return on_shards


def param_spec(
    path: str,
    shape: tuple[int, ...],
    mesh: Mesh,
    roles: ParameterRoles = GENERAL,
) -> PartitionSpec:
    """Partition of one parameter (or moment) by its path, shape and role.

    A dimension that the mesh axis does not divide is not split.
    """
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    for pattern, dim in roles.tensor:
        if tensor > 1 and len(shape) >= -dim and re.search(pattern, path):
            if shape[dim] % tensor == 0:
                spec[dim] = "tensor"
            break
    if fsdp > 1 and math.prod(shape) >= FSDP_MIN_SIZE:
        free = [d for d, s in enumerate(shape) if spec[d] is None and s % fsdp == 0]
        if free:
            spec[max(free, key=lambda d: shape[d])] = "fsdp"
    return PartitionSpec(*spec)


def state_shardings(state: Any, mesh: Mesh, roles: ParameterRoles = GENERAL) -> Any:
    """A `NamedSharding` for each leaf of a training state (arrays or their shapes).

    `roles` are those of the model, `model.roles`.
    """

    def rule(path: Any, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, param_spec(path_str(path), leaf.shape, mesh, roles))

    return jax.tree_util.tree_map_with_path(rule, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding that splits examples over the batch axes and keeps all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_divisor(mesh: Mesh) -> int:
    """Number of pieces into which the batch is split."""
    return math.prod(mesh.shape[a] for a in BATCH)
