# shellcheck shell=bash
# Sourced by the other scripts: the project's Python environment in .venv. Installs nothing outside of it.

# The caller's variables must not choose the modules that our Pythons import, nor the folder that `cd` goes to.
unset CDPATH "${!PYTHON@}"

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$project/.venv

say() { printf 'chapar: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

# Bring .venv, with Python $2 where that is given, up to the pins of a requirements file and to this project. Does nothing
# where it already is.
prepare_environment() {
  local requirements=$project/$1 stamp=$venv/$1.installed wanted
  wanted=$(cksum "$requirements" "$project/pyproject.toml")
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  ensure_venv "${2-}"
  say "installing the pinned packages of $1 (once)"
  quietly in_venv pip install --require-hashes --requirement "$requirements" ||
    fail "pip could not install the packages; it says why above."
  say "installing chapar"
  quietly in_venv pip install --no-deps --no-build-isolation --editable "$project" ||
    fail "pip could not install chapar; it says why above."
  printf '%s' "$wanted" >"$stamp"
}

# Show what a command says only where it fails, and never where packages come from: no index's address or password.
quietly() {
  local said code=0
  said=$("$@" 2>&1) || code=$?
  [[ $code -eq 0 ]] || sed -E -e '/^Looking in (indexes|links)/d' -e "s#[a-z+]+://[^[:space:]'\"<>]+#…#g" \
    -e "s#(host=|resolve |hostname )'[^']*'#\1…#g" -e "s#located at [^[:space:]]+#located at …#g" <<<"$said" >&2
  return "$code"
}

# Run a Python module of .venv; -I keeps the caller's folder and variables out of it.
in_venv() {
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -I -m "$@"
}

ensure_venv() {
  # The commands in .venv name its folder, so a copied or moved project needs a new one.
  grep --quiet --no-messages --fixed-strings "$venv/bin/python" "$venv/bin/pip" &&
    in_venv pip --version >/dev/null 2>&1 && return
  local python=${1-} version
  [[ -n $python ]] || python=$(find_python) || fail "Chapar needs Python 3.11 or newer, as python3 on the PATH. Install it and start again."
  version=$(version_of "$python")
  can_create_environments "$python" ||
    fail "Python $version cannot create environments here. Install its module venv and start again;" \
      "on Debian and Ubuntu: sudo apt install python$version-venv"
  say "creating ${venv##*/} with Python $version"
  "$python" -I -m venv --clear "$venv" || fail "Python could not create ${venv##*/}; it says why above."
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# The CPython of a version, from the PATH or from pyenv; nothing where there is none that can create environments.
find_version() {
  local python
  for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if [[ $("$python" -I -c 'import sys, ensurepip, venv
print(sys.implementation.name, "{}.{}".format(*sys.version_info))' 2>/dev/null) == "cpython $1" ]]; then
      command -v "$python"
      return
    fi
  done
}

version_of() { "$1" -I -c 'import sys; print("{}.{}".format(*sys.version_info))'; }

can_create_environments() { "$1" -I -c 'import ensurepip, venv' 2>/dev/null; }
