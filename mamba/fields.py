"""Settings that document and bound themselves.

Every configuration class of the library is a frozen standard-library dataclass whose fields are made by `setting`. The
library's rooms need nothing else; the host side (`mamba.runs.config`) reads the metadata to check values, to name the
unit and the remedy in an error, and to print the help page. World parameters use the same fields inside a pytree: they are
traced, so that changing them does not recompile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


def setting(
    default: Any,
    help: str,  # the public name of the concept, as in argparse
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """Declares one documented, bounded field of a configuration dataclass.

    Args:
        default: the default value; a `dict` or `list` is copied for every instance.
        help: what the setting is, in words that stand alone: an error shows them without the name of any other setting.
        unit: unit or range in words, such as "per step" or "users".
        ge: smallest allowed value.
        gt: bound that the value must exceed.
        le: largest allowed value.
        lt: bound that the value must stay below.
        choices: the allowed names of a string setting.

    Returns:
        A dataclass field with `metadata` keys `help`, `unit`, `ge`, `gt`, `le`, `lt` and `choices`.
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {"help": help, "unit": unit, "choices": None if choices is None else tuple(choices), **bounds}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
