"""Small real data shipped with the package, readers for your own graph, and interests and opinions derived from
them."""

from mamba.datasets.base import Conversation, Dataset, part, popularity
from mamba.datasets.catalogue import Entry, catalogue, load
from mamba.datasets.edges import from_edges
from mamba.datasets.opinions import assign_opinions, opinions
from mamba.datasets.topics import topics

__all__ = [
    "Conversation",
    "Dataset",
    "Entry",
    "assign_opinions",
    "catalogue",
    "from_edges",
    "load",
    "opinions",
    "part",
    "popularity",
    "topics",
]
