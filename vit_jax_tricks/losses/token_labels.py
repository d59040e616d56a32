"""Token-labelling losses of LV-ViT and VOLO, with labels for the image and tokens."""

import jax.numpy as jnp

from vit_jax_tricks.checks import checked
from vit_jax_tricks.errors import UserError
from vit_jax_tricks.losses.classification import smooth_labels, softmax_cross_entropy
from vit_jax_tricks.losses.divergence import kl_divergence
from vit_jax_tricks.losses.inputs import Number, mean_where, prepared
from vit_jax_tricks.typing import Array, Bool, Float, Label


@checked
def mix_class_labels(
    labels: Label[Array, "b k"], lam: Float[Array, ""] | Number
) -> Float[Array, "b k"]:
    """Class labels after MixToken: lam labels + (1 - lam) labels of the reversed batch.

    `lam` is the share of tokens that belong to the image itself. Token labels stay
    unmixed, because the model moves its token outputs back into place. Integer labels
    become float32.
    """
    labels = smooth_labels(labels, smoothing=0.0)
    lam = jnp.asarray(lam).astype(labels.dtype)
    return lam * labels + (1 - lam) * labels[::-1]


@checked
def corrected_class_labels(
    *, class_labels: Label[Array, "b k"], true_labels: Label[Array, "b k"]
) -> Float[Array, "b k"]:
    """Blends teacher and true labels: r teacher + (1 - r) truth.

    r is 0.5 where both have the same best class, and 0.9 elsewhere. Equivalent to the
    option ground_truth of TokenLabeling's TokenLabelCrossEntropy and to VOLO's
    TokenLabelGTCrossEntropy (tested).
    """
    class_labels, true_labels = prepared(None, class_labels, true_labels)
    agree = jnp.argmax(class_labels, axis=-1) == jnp.argmax(true_labels, axis=-1)
    # The references compute these shares in float32, whatever the labels' dtype.
    ratio = 0.9 - 0.4 * agree.astype(jnp.float32)[:, None]
    ratio, rest = (
        ratio.astype(class_labels.dtype),
        (1 - ratio).astype(true_labels.dtype),
    )
    return ratio * class_labels + rest * true_labels


@checked
def token_label_cross_entropy(
    *,
    logits: Float[Array, "b k"],
    dense_logits: Float[Array, "b n k"],
    class_labels: Label[Array, "b k"] | None,
    token_labels: Label[Array, "b n k"],
    class_weight: Number = 1.0,
    dense_weight: Number = 1.0,
    minus_entropy: bool = False,
    where: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b"]:
    """Token-labelling loss: class_weight CE(image) + dense_weight mean_n CE(token).

    Labels are soft. The mean is over the tokens in `where`, and 0 if none is selected.
    dense_weight is 0.5 in the paper and 1 in the released code. With `minus_entropy`,
    both parts are `kl_divergence`, which has the same gradient. With class_weight 0,
    class_labels may be None.

    Equivalent to TokenLabeling's TokenLabelCrossEntropy before its mean, for labels
    from `mix_class_labels` and `corrected_class_labels` (tested). Its other two losses,
    SoftTargetCrossEntropy and TokenLabelSoftTargetCrossEntropy, are
    `softmax_cross_entropy` with the class labels (tested).

    Raises: UserError for a class_weight without class labels.
    Source: Jiang et al., 2021, arXiv:2104.10858.
    """
    loss = kl_divergence if minus_entropy else softmax_cross_entropy
    tokens = loss(logits=dense_logits, labels=token_labels, where=where)
    out = dense_weight * mean_where(tokens, where, axis=1)
    if not class_weight:
        return out
    if class_labels is None:
        raise UserError(
            f"token_label_cross_entropy: class_weight={class_weight} needs "
            "class_labels [b, k]: pass them, or class_weight=0."
        )
    return out + class_weight * loss(logits=logits, labels=class_labels)
