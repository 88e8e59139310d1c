"""Recommender kinds, one file each."""
