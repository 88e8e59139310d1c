#!/bin/sh
# From a fresh checkout to a report: makes the environment, then runs the quickstart preset.
#
#   sh scripts/quickstart.sh [arguments of `mamba-eco run`]
#
# The run folder is chosen by the command line (under the current folder unless told otherwise), which ends by printing
# where the report is. environment.sh names the settings of the environment.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$root/scripts/environment.sh"

mamba_say "environment"
mamba_environment ""

mamba_say "run (configs/quickstart.yaml)"
mamba-eco run "$root/configs/quickstart.yaml" "$@"
