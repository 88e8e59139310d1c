"""The parts of `scripts/bench.py`: what is measured, how, and the tables. One subject a file."""
