"""Small flax encoders used by neural recommenders; the only place that builds flax modules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba.types import Array


class Tower(nn.Module):
    """A two-layer encoder with unit-norm output.

    Attributes:
        hidden: width of the hidden layer.
        width: size of the embedding, E.
    """

    hidden: int
    width: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Encodes `[..., F]` features into `[..., E]` embeddings of norm at most 1."""
        hidden = jnp.tanh(nn.Dense(self.hidden)(features))
        code = nn.Dense(self.width)(hidden)
        return code * jax.lax.rsqrt(1.0 + jnp.sum(code * code, axis=-1, keepdims=True))
