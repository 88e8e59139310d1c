"""Small flax networks of recommenders and policies; the only place that builds flax modules."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from mamba.types import Array

_dense = functools.partial(nn.Dense, param_dtype=float)  # jax's default precision, as everything else has


class Tower(nn.Module):
    """A two-layer encoder with unit-norm output.

    Attributes:
        hidden: width of the hidden layer.
        width: size of the embedding, E.
        residual: adds the first E features to the embedding before it is scaled (an identity path; F >= E).
    """

    hidden: int
    width: int
    residual: bool = False

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Encodes `[..., F]` features into `[..., E]` embeddings of norm at most 1."""
        hidden = jnp.tanh(_dense(self.hidden)(features))
        code = _dense(self.width)(hidden)
        if self.residual:
            code = code + features[..., : self.width]
        return code * jax.lax.rsqrt(1.0 + jnp.sum(code * code, axis=-1, keepdims=True))


class Perceptron(nn.Module):
    """One hidden layer of tanh units.

    Attributes:
        hidden: width of the hidden layer.
        outputs: size of what comes out, O.
    """

    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps `[..., F]` features to `[..., O]` real numbers."""
        hidden = jnp.tanh(_dense(self.hidden, name="hidden")(features))
        return _dense(self.outputs, name="output")(hidden)


class NextItem(nn.Module):
    """One block of self-attention with one head, read out at the newest item of a history (Kang and McAuley 2018).

    Attributes:
        width: size of a token, E.
        outputs: size of what is read out, F.
    """

    width: int
    outputs: int

    @nn.compact
    def __call__(self, history: Array, weight: Array) -> Array:
        """Reads histories.

        Args:
            history: [..., L, F'] features of engaged items, newest first; 0 where there is none.
            weight: [..., L] in [0, 1], how much of each entry is there.

        Returns:
            [..., F].
        """
        place = self.param("place", nn.initializers.normal(0.5), (history.shape[-2], self.width))
        place = jnp.broadcast_to(place, (*weight.shape, self.width))
        token = _dense(self.width, use_bias=False, name="token")(history) + weight[..., None] * place
        # Only the newest place is read out, so only its query is formed; all else in a history came before it.
        query = _dense(self.width, name="query")(token[..., :1, :])
        key = _dense(self.width, name="key")(token)
        value = _dense(self.width, name="value")(token)
        odds = jnp.sum(query * key, axis=-1) / self.width**0.5
        mass = weight * jnp.exp(odds - jnp.max(odds, axis=-1, keepdims=True))
        attended = jnp.sum(mass[..., None] * value, axis=-2) / (1e-3 + jnp.sum(mass, axis=-1, keepdims=True))
        state = token[..., 0, :] + attended
        state = state + _dense(self.width, name="down")(jnp.tanh(_dense(2 * self.width, name="up")(state)))
        return _dense(self.outputs, kernel_init=nn.initializers.normal(0.1), name="read")(state)
