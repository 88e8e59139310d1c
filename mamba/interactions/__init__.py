"""Interaction analysis: what algorithms do to each other, with intervals."""
