# shellcheck shell=bash
# Sourced by scripts/test alone, behind environment.sh: Debian packages with the servers and tools that tests start.

# Install what the tests need and this machine lacks, where we may.
install_missing_packages() {
  local packages=() python
  python=$(find_python) && ! can_create_environments "$python" &&
    announced_install "python$(version_of "$python")-venv"
  has_mosquitto || packages+=(mosquitto mosquitto-clients)
  has_postgresql || packages+=(postgresql)
  has_libfiu || packages+=(fiu-utils)
  has_libfaketime || packages+=(libfaketime)
  has_nginx || packages+=(nginx)
  has_caddy || packages+=(caddy)
  has_chromium || packages+=(chromium)
  has_promtool || packages+=(prometheus)
  [[ ${#packages[@]} -eq 0 ]] || announced_install "${packages[@]}"
}

announced_install() {
  command -v apt-get >/dev/null && may_be_root || return 0
  say "installing with apt: $*"
  install_without_services "$@" || say "apt could not install $*"
}

# Put a sentence for each into the list `missing_tools`.
find_missing_tools() {
  missing_tools=()
  has_mosquitto || missing_tools+=("Mosquitto      MISSING, its tests were skipped (package mosquitto)")
  has_postgresql || missing_tools+=("PostgreSQL     MISSING, its tests were skipped (package postgresql)")
  has_libfiu || missing_tools+=("libfiu         MISSING, its tests were skipped (package fiu-utils)")
  has_libfaketime || missing_tools+=("libfaketime    MISSING, its tests were skipped (package libfaketime)")
  has_nginx || missing_tools+=("nginx          MISSING, its tests were skipped (package nginx)")
  has_caddy || missing_tools+=("Caddy          MISSING, its tests were skipped (package caddy)")
  has_chromium || missing_tools+=("Chromium       MISSING, its tests were skipped (package chromium)")
  has_systemd_analyze || missing_tools+=("systemd        MISSING, its units were not verified (package systemd)")
  has_gpp || missing_tools+=("g++            MISSING, the Arduino sketch was not compiled (package g++)")
  has_promtool || missing_tools+=("Prometheus     MISSING, its tests were skipped (package prometheus)")
}

# Debian keeps the first three outside the PATH of ordinary users.
has_mosquitto() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v mosquitto >/dev/null; }
has_nginx() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v nginx >/dev/null; }
has_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

has_systemd_analyze() { command -v systemd-analyze >/dev/null; }
has_gpp() { command -v g++ >/dev/null; }
has_promtool() { command -v promtool >/dev/null; }
has_caddy() { command -v caddy >/dev/null; }
has_chromium() { command -v chromium >/dev/null; }
has_libfiu() { command -v fiu-ctrl >/dev/null; }
has_libfaketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; }

# Whether as_root works without a question.
may_be_root() { [[ $EUID -eq 0 ]] || sudo --non-interactive true 2>/dev/null; }

as_root() {
  if [[ $EUID -eq 0 ]]; then "$@"; else sudo --non-interactive "$@"; fi
}

apt_install() {
  # A fresh machine has no package lists, an old one has lists that name files long gone.
  apt_get install "$@" 2>/dev/null || { apt_get update && apt_get install "$@"; }
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2 --no-install-recommends "$@" >/dev/null
}

# Install the packages, and start none of the services that come with them: tests start servers of their own.
install_without_services() {
  local policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.d/chapar-tests.conf result=0 package
  local mine=("$cluster")
  [[ -e $policy ]] || mine+=("$policy")
  # shellcheck disable=SC2064  # the files of now
  trap "as_root rm -f ${mine[*]}" EXIT
  printf 'create_main_cluster = false\n' | as_root install -D -m 644 /dev/stdin "$cluster"
  [[ -e $policy ]] || printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
  apt_install "$@" || result=$?
  as_root rm -f "${mine[@]}"
  trap - EXIT
  for package in "$@"; do
    case $package in mosquitto | nginx | caddy | prometheus)
      as_root systemctl --quiet disable "$package.service" 2>/dev/null || true
      ;;
    esac
  done
  return "$result"
}
