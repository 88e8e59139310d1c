"""Moderator kinds, one file each."""
