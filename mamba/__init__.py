"""mamba: what recommendation and moderation algorithms do together to a social network, and how to tune them.

The public names are the rooms themselves; nothing here starts JAX. See the README for a first example.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

try:
    __version__ = metadata.version("mamba-ecosystems")
except metadata.PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0+unknown"

_ROOMS = (
    "algorithms",
    "datasets",
    "ecosystem",
    "interactions",
    "members",
    "meta",
    "objectives",
    "passing",
    "policies",
    "rollout",
    "runs",
    "scenarios",
    "types",
    "world",
)

__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Imports a room when it is first used, so that `import mamba` stays cheap."""
    if name in _ROOMS:
        return importlib.import_module(f"mamba.{name}")
    raise AttributeError(f"module 'mamba' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
