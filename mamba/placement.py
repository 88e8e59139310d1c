"""Where arrays live: members over the devices by default, or the users of one platform that is too large for a single device.

`split_users` is a scope. Inside it every array with an axis as long as the users is split along that axis over the local
devices (told by its length alone: another axis that happens to be as long is split, too, which changes no number), and the
compiler puts in what has to be exchanged: what friends share on (`Outbox`, [U, O]) is gathered, what happened to items is
summed. Items and creators, a few per cent of the users' memory, are whole on every device. Only sums are taken in another
order, so that results are equal to rounding, not bit by bit.

References:
    Xu et al. 2021 (GSPMD: the partitioner that does this).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import jax
from jax.sharding import AxisType, PartitionSpec

T = TypeVar("T")
SHARDS = ("members", "users")  # what devices may share out among them
_AXIS = "user"


@contextlib.contextmanager
def split_users() -> Iterator[None]:
    """Inside, users are split over the local devices; on a single device nothing changes."""
    devices = jax.local_devices()
    if len(devices) == 1:
        yield
        return
    with jax.set_mesh(jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)):
        yield


def users_are_split() -> bool:
    """Whether this is inside `split_users`, on several devices."""
    return _AXIS in jax.sharding.get_abstract_mesh().axis_names


def member_devices() -> int:
    """How many devices members are dealt out to: all local ones, or one group where users are split."""
    return 1 if users_are_split() else jax.local_device_count()


def placed(tree: T, users: int) -> T:
    """Arrays on the devices, those of users split where `users_are_split`."""
    if not users_are_split():
        return jax.device_put(tree)
    return jax.tree.map(lambda leaf: jax.device_put(leaf, _spec(leaf.shape, users)), tree)


def by_users(tree: T, users: int) -> T:
    """The same inside a program: keeps what a scan carries split along its users. Nothing where they are not."""
    if not users_are_split():
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, _spec(leaf.shape, users)), tree)


def _spec(shape: tuple[int, ...], users: int) -> PartitionSpec:
    """Split along the users: the last axis, or an earlier one of tables whose rows are gathered (`mamba.types`)."""
    found = [axis for axis, length in enumerate(shape) if length == users]
    if not found:
        return PartitionSpec()
    axis = found[-1] if found[-1] == len(shape) - 1 else found[0]
    return PartitionSpec(*[None] * axis, _AXIS)
