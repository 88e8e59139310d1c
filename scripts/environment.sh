# Makes, checks and reuses the project's Python environment. Sourced by the other scripts, not run:
#
#   root=<the checkout>
#   . "$root/scripts/environment.sh"
#   mamba_environment test,lint      # extras of pyproject.toml, comma-separated; none for running only
#   "$mamba_python" -m pytest
#
# Settings, all optional, as environment variables:
#   PYTHON           the Python (3.11 or newer) to build on; otherwise the newest one found
#   MAMBA_VENV       where the environment lives; otherwise .venv in the checkout
#   MAMBA_INSTALLER  uv or pip; otherwise uv where it is installed, else pip

mamba_say() {
  printf 'mamba: %s\n' "$*"
}

mamba_fail() {
  printf 'mamba: %s\n' "$*" >&2
  exit 1
}

mamba_is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

mamba_minor() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# Sets mamba_base to a Python to build on.
mamba_find_python() {
  if [ -n "${PYTHON:-}" ]; then
    mamba_is_new_enough "$PYTHON" || mamba_fail "PYTHON=$PYTHON is not a working Python 3.11 or newer"
    mamba_base=$PYTHON
    return 0
  fi
  for mamba_base in python3.13 python3.12 python3.11 python3; do
    # Run it: a name on PATH may be a version manager's stub for a Python that is not selected.
    if mamba_is_new_enough "$mamba_base"; then return 0; fi
  done
  if command -v uv >/dev/null 2>&1; then
    mamba_base=$(uv python find '>=3.11' 2>/dev/null) || mamba_base=
    if [ -n "$mamba_base" ] && mamba_is_new_enough "$mamba_base"; then return 0; fi
  fi
  mamba_fail "no Python 3.11 or newer found; install one, or set PYTHON to its path"
}

# Makes the environment in $mamba_venv anew, from $mamba_base.
mamba_make_venv() {
  if [ -e "$mamba_venv" ]; then
    # Delete only what these scripts made, or a broken default environment: MAMBA_VENV may name anything.
    if [ -d "$mamba_venv" ] && [ -z "$(ls -A "$mamba_venv")" ]; then
      :
    elif [ -f "$mamba_venv/.mamba-place" ] || [ -f "$mamba_venv/.mamba-making" ]; then
      rm -rf -- "$mamba_venv"
    elif [ "$mamba_venv" = "$root/.venv" ] && [ -f "$mamba_venv/pyvenv.cfg" ]; then
      rm -rf -- "$mamba_venv"
    else
      mamba_fail "$mamba_venv is not an environment that works here; move it or set MAMBA_VENV to another folder"
    fi
  fi
  mamba_say "making an environment with Python $(mamba_minor "$mamba_base") in $mamba_venv"
  mkdir -p -- "$mamba_venv"
  : >"$mamba_venv/.mamba-making"
  if [ "$mamba_installer" = uv ]; then
    "$mamba_base" -m venv --without-pip "$mamba_venv" || mamba_fail "could not make an environment in $mamba_venv"
  else
    "$mamba_base" -m venv "$mamba_venv" ||
      mamba_fail "could not make an environment in $mamba_venv (on Debian and Ubuntu: install python3-venv, or uv)"
  fi
  rm -f -- "$mamba_venv/.mamba-making"
}

# Prints "ready" when the environment already holds the extras in $1, else the stamp to write once they are installed.
mamba_plan() {
  "$mamba_python" - "$mamba_venv/.mamba-stamp" "$root" "$mamba_constraints" "$1" <<'PLAN'
import hashlib
import pathlib
import sys

stamp, root, constraints = map(pathlib.Path, sys.argv[1:4])
digest = hashlib.sha256("\0".join((sys.version, sys.prefix, str(root))).encode())
for path in (root / "pyproject.toml", root / constraints):
    digest.update(path.read_bytes() if path.is_file() else b"none")
wanted = set(filter(None, sys.argv[4].split(",")))
line = stamp.read_text().strip() if stamp.is_file() else ""
before, _, extras = line.partition(" ")
present = set(filter(None, extras.split(","))) if before == digest.hexdigest() else set()
same = before == digest.hexdigest() and wanted <= present
print("ready" if same else f"{digest.hexdigest()} {','.join(sorted(wanted | present))}")
PLAN
}

mamba_install() {
  mamba_what=.
  if [ -n "$1" ]; then mamba_what=".[$1]"; fi
  set -- --quiet --editable "$mamba_what"
  if [ -f "$root/$mamba_constraints" ]; then
    set -- "$@" --constraint "$mamba_constraints"
  else
    mamba_say "note: no tested versions are recorded for Python $(mamba_minor "$mamba_python"); taking the newest"
  fi
  mamba_say "installing $mamba_what with $mamba_installer (some minutes the first time)"
  if [ "$mamba_installer" = uv ]; then
    # uv reads the settings of uv, not those of pip.
    (cd "$root" && uv pip install --python "$mamba_python" "$@") ||
      mamba_fail "uv could not install the packages; its own message is above (MAMBA_INSTALLER=pip uses pip instead)"
  else
    "$mamba_python" -m pip --version >/dev/null 2>&1 || "$mamba_python" -m ensurepip --default-pip >/dev/null ||
      mamba_fail "the environment in $mamba_venv has no pip; remove that folder and try again"
    (cd "$root" && "$mamba_python" -m pip install --disable-pip-version-check "$@") ||
      mamba_fail "pip could not install the packages; its own message is above"
  fi
}

# Leaves an environment with the extras in $1 first on PATH, and its interpreter in mamba_python.
mamba_environment() {
  mamba_venv=${MAMBA_VENV:-$root/.venv}
  case $mamba_venv in
  /*) ;;
  *) mamba_venv=$(pwd)/$mamba_venv ;;
  esac
  mamba_python=$mamba_venv/bin/python

  mamba_installer=${MAMBA_INSTALLER:-}
  if [ -z "$mamba_installer" ]; then
    if command -v uv >/dev/null 2>&1; then mamba_installer=uv; else mamba_installer=pip; fi
  fi
  case $mamba_installer in
  uv | pip) ;;
  *) mamba_fail "MAMBA_INSTALLER=$mamba_installer is neither uv nor pip" ;;
  esac

  # Keep what is there when it runs, is new enough, was made in this place and is the Python that was asked for.
  mamba_keep=no
  if [ ! -f "$mamba_venv/.mamba-making" ] && [ -f "$mamba_venv/pyvenv.cfg" ] && mamba_is_new_enough "$mamba_python"; then
    mamba_keep=yes
    if [ -f "$mamba_venv/.mamba-place" ] && [ "$(cat "$mamba_venv/.mamba-place")" != "$mamba_venv" ]; then
      mamba_keep=no # moved or copied: its commands point to the old place
    fi
    if [ -n "${PYTHON:-}" ]; then
      mamba_find_python
      if [ "$(mamba_minor "$mamba_base")" != "$(mamba_minor "$mamba_python")" ]; then mamba_keep=no; fi
    fi
  fi
  if [ "$mamba_keep" = no ]; then
    mamba_find_python
    mamba_make_venv
    printf '%s\n' "$mamba_venv" >"$mamba_venv/.mamba-place"
  fi

  mamba_constraints=scripts/constraints/py$(mamba_minor "$mamba_python" | tr -d .).txt
  mamba_stamp=$(mamba_plan "${1:-}") || mamba_fail "the Python in $mamba_venv does not work; remove that folder and try again"
  if [ "$mamba_stamp" != ready ]; then
    rm -f -- "$mamba_venv/.mamba-stamp" # an interrupted installation must not look like a finished one
    mamba_install "${mamba_stamp#* }"
    printf '%s\n' "$mamba_stamp" >"$mamba_venv/.mamba-stamp"
  fi

  VIRTUAL_ENV=$mamba_venv
  PATH=$mamba_venv/bin:$PATH
  export VIRTUAL_ENV PATH
  unset PYTHONHOME
}
