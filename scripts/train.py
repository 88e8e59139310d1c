"""Trains the levers of a configuration: `mamba-eco train` for a checkout, as a launcher or `wandb sweep` starts it.

python scripts/train.py quickstart --run_dir runs/mine --meta.steps=60
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mamba.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
