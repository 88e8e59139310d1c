#!/bin/sh
# Everything that must pass before a change is merged: format, lint, types, tests. Stops at the first failure.
#
#   sh scripts/test.sh [arguments of pytest]     e.g.  sh scripts/test.sh -k attention -n 0
#
# Paths among the arguments are relative to the checkout. `-m slow` runs the slow tests; `-m gpu` with
# MAMBA_TEST_PLATFORM=cuda runs those that need an accelerator. environment.sh names the other settings.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$root/scripts/environment.sh"

parallel="-n auto --maxprocesses=2 --dist loadfile" # one file, one process: a file's tests share compiled functions

mamba_say "environment"
mamba_environment test,lint
cd "$root"

mamba_say "format (ruff format --check)"
ruff format --check .

mamba_say "lint (ruff check)"
ruff check .

mamba_say "types (pyrefly check)"
pyrefly check

# Compiled functions outlive the process, so a second run of the tests is much faster than the first.
JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.pytest_cache/jax}
JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.3}
export JAX_COMPILATION_CACHE_DIR JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS

mamba_say "tests (pytest)"
# shellcheck disable=SC2086  # several words on purpose; a later -n among the arguments wins
"$mamba_python" -m pytest $parallel "$@"

mamba_say "all stages passed"
