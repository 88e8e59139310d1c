"""Runs a sweep file on every device: `mamba-eco sweep` for a checkout.

python scripts/sweep.py sharpness --dry-run
python scripts/sweep.py configs/sweeps/learning_rate.yaml --run_dir runs/rates
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mamba.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["sweep", *sys.argv[1:]]))
