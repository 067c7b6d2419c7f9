"""The arrays that attacks work with, by one name each; images may have any shape behind the axis of the batch."""

from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "batch *shape"]
"""Images, and points on the way from them, mostly NHWC."""

Perturbations = Float[Array, "batch *shape"]
"""What is added to images, and what has their shape besides: gradients, directions."""

Labels = Int[Array, " batch"]
"""A class for each example: the true one, or a target."""

Keys = Key[Array, " batch"]
"""A random key for each example."""

Logits = Float[Array, "batch classes"]
"""What a model gives for images."""

Values = Float[Array, " batch"]
"""A number for each example: a loss, a margin, a norm."""

Counts = Int[Array, " batch"]
"""A whole number for each example: steps, evaluations."""

Mask = Bool[Array, " batch"]
"""Whether something holds, for each example."""
