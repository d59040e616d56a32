"""Cost of quantising each place alone, with all others in float."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax_tricks.checks import checked
from vit_jax_tricks.compress.inputs import check_float, pairs
from vit_jax_tricks.compress.quant.apply import quantized_apply
from vit_jax_tricks.compress.quant.ranges import Range
from vit_jax_tricks.compress.quant.rules import Rule
from vit_jax_tricks.typing import Array, Bool, Float, Integer


EVERYTHING = "everything"


class Cost(NamedTuple):
    """Effect of quantising one place on the model, over all images.

    `sqnr` is the power of the float logits over that of their change, in dB;
    `agreement` the fraction of images with the same best class; `loss` the change of
    the mean cross-entropy, in nats.
    """

    place: str
    sqnr: float
    agreement: float
    loss: float


def sensitivity(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[tuple[Array, Array]],
    ranges: Mapping[str, Range],
    rules: Sequence[Rule],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Cost]:
    """The cost of each place in `ranges`, in order, and finally of all places together.

    One compiled program serves all of them, plus one for a smaller last batch.

    Args:
      model: the float model; blocks stacked by scan are quantised together, as one
        place.
      variables: the model's variables.
      batches: pairs of normalised images [b, h, w, c] and labels [b].
      ranges, rules: as `quantized_apply` takes them.
      progress: called with the number of places done and of all places, after each;
        may raise to stop.

    Raises: UserError for a quantised model, batches that are not pairs, no batch,
      images or labels of another shape or dtype, and as `quantized_apply` does.

    >>> import jax
    >>> from vit_jax_tricks import compress, create_model
    >>> sizes = dict(img_size=32, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    >>> model = create_model("deit_tiny_patch16_224", **sizes)
    >>> images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    >>> variables = model.init(jax.random.key(1), images)
    >>> rules = compress.standard_rules()
    >>> ranges = compress.calibrate(model, variables, [images], rules)
    >>> batches = [(images, jax.numpy.arange(4))]
    >>> costs = compress.sensitivity(model, variables, batches, ranges, rules)
    >>> [cost.place for cost in costs][-2:]
    ['blocks_0/mlp/fc2/input', 'everything']
    """
    check_float("sensitivity", model, variables)
    kept = list(pairs("sensitivity", batches, model))
    run = jax.jit(partial(batch_sums, model, rules=rules))
    names = list(ranges)
    places = [(name, {name}) for name in names] + [(EVERYTHING, set(names))]
    found = []
    for done, (place, chosen) in enumerate(places):
        gates = {name: np.bool_(name in chosen) for name in names}
        sums = [run(variables, ranges, gates, *batch) for batch in kept]
        total = {key: sum(float(one[key]) for one in sums) for key in sums[0]}
        ratio = total["power"] / max(total["error"], np.finfo(np.float32).tiny)
        found.append(
            Cost(
                place,
                10 * float(np.log10(max(ratio, np.finfo(np.float32).tiny))),
                total["agree"] / total["count"],
                total["loss"] / total["count"],
            )
        )
        progress(done + 1, len(places))
    return found


@checked
def batch_sums(
    model: nn.Module,
    variables: Mapping[str, Any],
    ranges: Mapping[str, Range],
    gates: Mapping[str, Bool[Array, ""]],
    images: Float[Array, "b h w c"],
    labels: Integer[Array, "b"],
    *,
    rules: Sequence[Rule],
) -> dict[str, Array]:
    """The sums over one batch that a `Cost` is made of, for the places with gates on.

    Raises: UserError for images or labels of another shape or dtype, and as
      `quantized_apply` does.
    """
    plain = model.apply(variables, images, train=False)[0].astype(jnp.float32)
    logits, _ = quantized_apply(model, variables, images, ranges, rules, gates=gates)
    logits = logits.astype(jnp.float32)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    return {
        "power": jnp.square(plain).sum(),
        "error": jnp.square(logits - plain).sum(),
        "agree": (logits.argmax(-1) == plain.argmax(-1)).sum(),
        "loss": (entropy(logits, labels) - entropy(plain, labels)).sum(),
        "count": jnp.float32(len(images)),
    }
