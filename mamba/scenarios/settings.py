"""Settings of a scenario: which data, how many of its people, and how big the world is."""

from __future__ import annotations

from dataclasses import dataclass

from mamba.fields import setting


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig:
    """Data and sizes."""

    dataset: str = setting(
        "twitch_engb", "a packaged network, the path of an edge list (.csv .tsv .parquet .npz), or 'generated'"
    )
    mean_degree: int = setting(10, "followees of a generated user (preferential attachment)", unit="users", ge=1)
    reader_column: str = setting("reader", "column of an edge list that says who follows")
    source_column: str = setting("source", "column of an edge list that says who is followed")
    clean_edges: bool = setting(
        False, "edge list: drop self-loops and number the ids that occur from 0, instead of refusing them"
    )
    ties: str = setting(
        "real", "the network's own ties, or ties drawn anew with the same degrees", choices=("real", "rewired")
    )
    opinions: str = setting(
        "polis_vtaiwan_uberx", "packaged conversation whose opinion distribution is used, or 'gaussian'"
    )
    users: int = setting(0, "size of the connected part that is used; 0 uses everyone", unit="users", ge=0)
    creators: float = setting(0.2, "share of users who post: the most followed", unit="0 to 1", gt=0, le=1)
    homophily: float = setting(0.8, "how far neighbours share innate opinions", unit="0 to 1", ge=0, le=1)
    topics: int = setting(4, "dimensions of opinions and interests", unit="topics", ge=1, le=64)
    followees: int = setting(
        16, "followees kept per user; where there are more, so many are sampled", unit="users", ge=1, le=1024
    )
    lifetime: int = setting(24, "steps an item can be recommended", unit="steps", ge=2, le=1000)
    in_network: int = setting(9, "candidates that a user gets from their own ties", unit="items", ge=1, le=256)
    recent: int = setting(
        6,
        "latest steps whose posts in-network candidates are drawn from, at most lifetime",
        unit="steps",
        ge=1,
        le=1000,
    )
    outbox: int = setting(4, "steps a reshare stays visible", unit="steps", ge=1, le=64)
    links: int = setting(8, "suggested accounts per user and step", unit="users", ge=1, le=64)
    nodes: int = setting(20, "quadrature nodes of the expected attention", unit="nodes", ge=8, le=128)
    log_batch: int = setting(256, "users whose interactions are logged per step", unit="users", ge=1)
    user_block: int = setting(0, "users served at once; fewer need less memory, 0 serves all", unit="users", ge=0)
