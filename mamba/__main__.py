"""`python -m mamba`: the same as the command `mamba-eco`."""

from mamba.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
