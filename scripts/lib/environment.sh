# shellcheck shell=bash
# Sourced by the other scripts: the project's Python environment in .venv, and Debian packages where we may install them.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$project/.venv

say() { printf 'chapar: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

# Bring .venv up to the pins of a requirements file and to this project. Does nothing where it already is.
prepare_environment() {
  local requirements=$project/$1 stamp=$venv/$1.installed wanted
  wanted=$(cksum "$requirements" "$project/pyproject.toml")
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
  ensure_venv
  say "installing the pinned packages of $1 (once)"
  in_venv pip install --quiet --require-hashes --requirement "$requirements" ||
    fail "pip could not install the packages; it says why above."
  say "installing chapar"
  in_venv pip install --quiet --no-deps --no-build-isolation --editable "$project" ||
    fail "pip could not install chapar; it says why above."
  printf '%s' "$wanted" >"$stamp"
}

# Run a Python module of .venv; -I keeps the caller's folder and variables out of it.
in_venv() {
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -I -m "$@"
}

ensure_venv() {
  # The commands in .venv name its folder, so a copied or moved project needs a new one.
  grep --quiet --no-messages --fixed-strings "$venv/bin/python" "$venv/bin/pip" &&
    in_venv pip --version >/dev/null 2>&1 && return
  local python version
  python=$(find_python) || fail "Chapar needs Python 3.11 or newer, as python3 on the PATH."
  version=$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "python$version-venv" ||
      fail "Python cannot create environments here; install its package python$version-venv and start again."
  fi
  say "creating .venv with Python $version"
  "$python" -m venv --clear "$venv" || fail "Python could not create .venv; it says why above."
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# Whether as_root works without a question.
may_be_root() { [[ $EUID -eq 0 ]] || sudo --non-interactive true 2>/dev/null; }

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo --non-interactive "$@"; fi
}

# Install Debian packages; false where we may not, where there is no apt, or where it fails.
apt_install() {
  command -v apt-get >/dev/null && may_be_root || return 1
  say "installing $* with apt"
  # A fresh machine has no package lists, an old one has lists that name files long gone.
  apt_get install "$@" 2>/dev/null || { apt_get update && apt_get install "$@"; }
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2 --no-install-recommends "$@" >/dev/null
}
