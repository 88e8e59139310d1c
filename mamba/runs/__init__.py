"""The host side: configuration, run folder, loop, checkpoints, tracking, report."""
