"""The student as the serving graph has it: the same numbers by fewer operations.

`psad_tf.models.student` and `psad_tf.layers.above_context` have the formulas.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from psad_tf.data.encoder import chosen
from psad_tf.export.served_features import ServedInputs
from psad_tf.export.served_layers import ServedLayers, as_rows
from psad_tf.export.served_profile import ServedProfile
from psad_tf.layers.list_context import relative_to_list
from psad_tf.masking import LARGE_NEGATIVE
from psad_tf.models.student import StudentScorer


def served_scores(
    student: StudentScorer,
    candidate_out: tf.keras.layers.Dense,
    layers: ServedLayers,
    profile: ServedProfile,
    inputs: ServedInputs,
    mask: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """Adds the student to the current graph.

    Args:
        student: The built layer.
        candidate_out: Last layer of the User Profile Network.
        layers: The weights.
        profile: From `served_profile`.
        inputs: The request.
        mask: bool [b, n], false at padding and at candidates that are blocked.

    Returns:
        `scores` and `probabilities`, as the layer gives them.
    """
    of_lists = inputs.of_lists
    # c_i = hidden_i W' + b' and x_i = relu(c_i W + b + V z) are one product.
    last, last_bias = layers.kernel_and_bias(candidate_out)
    kernel, bias = layers.kernel_and_bias(student.candidate)
    intent_kernel, _ = layers.kernel_and_bias(student.intent)
    of_intent = layers.affine(profile.intent, intent_kernel, last_bias @ kernel + bias)
    of_item = of_lists(tf.matmul(profile.hidden, layers.constant(last @ kernel)))
    items = tf.nn.relu(of_item + tf.expand_dims(of_intent, 1))
    rows = as_rows(items)
    if student.config.context == "above":
        scores = _refined_by_what_stands_above(student, layers, rows, inputs, mask)
    else:
        context = []
        if student.config.context == "mean_max":
            represented = layers.dense(candidate_out, profile.hidden)
            context = relative_to_list(of_lists(represented), mask)
        elif student.config.context == "self_attention":
            with layers.in_graph(student.encoder):
                context = [student.encoder(items, mask)]
        first = layers.dense(student.first, rows)
        parts = [rows, *map(as_rows, context), first]
        scores = first + layers.mlp(student.refine[0], tf.concat(parts, -1))
    scores = tf.squeeze(of_lists(scores), -1)
    offset = layers.dense(student.calibration, profile.intent)
    scale = _softplus(layers.values(student.calibration_scale))
    lowest = tf.fill(tf.shape(scores), np.float32(LARGE_NEGATIVE))
    probabilities = tf.sigmoid(scale * scores + offset)
    return {
        "scores": chosen(mask, scores, lowest),
        "probabilities": chosen(mask, probabilities, tf.zeros_like(probabilities)),
    }


def _refined_by_what_stands_above(
    student: StudentScorer,
    layers: ServedLayers,
    rows: tf.Tensor,
    inputs: ServedInputs,
    mask: tf.Tensor,
) -> tf.Tensor:
    """The scores after every round, [b n, 1], of candidates [b n, width]."""
    above = student.above
    width, context_width = rows.shape[-1], above.num_heads * above.head_dim
    kernels, biases = zip(
        *(layers.kernel_and_bias(layer) for layer in (above.source, above.target, student.first)), strict=True
    )
    projected = layers.affine(rows, np.concatenate(kernels, 1), np.concatenate(biases))
    sources, targets, first = tf.split(projected, [context_width, context_width, 1], -1)
    sources = inputs.of_lists(sources) * tf.expand_dims(tf.cast(mask, tf.float32), 2)
    own = 0.5 * sources  # a candidate does not stand above itself, where the sigmoid is 1/2
    # The sum over each head and the product with the next layer's kernel are one product.
    head_sums = np.repeat(np.eye(above.num_heads, dtype=np.float32), above.head_dim, 0) * above.head_dim**-0.5
    sharpness = _softplus(layers.values(above.sharpness))
    scores = first
    for refine in student.refine:
        sharp = inputs.of_lists(sharpness * scores)  # [b, n, 1]
        differences = tf.expand_dims(tf.squeeze(sharp, -1), 1) - sharp
        sums = tf.matmul(tf.sigmoid(differences), sources) - own
        products = tf.reshape(sums, [-1, context_width]) * targets
        kernel, _ = layers.kernel_and_bias([*refine.hidden, refine.out][0])
        context_kernel = head_sums @ kernel[width : width + above.num_heads]
        kernel = np.concatenate([kernel[:width], context_kernel, kernel[width + above.num_heads :]])
        scores = first + layers.mlp(
            refine, tf.concat([rows, products, scores], -1), kernel.astype(np.float32)
        )
    return scores


def _softplus(value: np.ndarray) -> np.float32:
    return np.float32(np.logaddexp(0.0, value))
