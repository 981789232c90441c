# shellcheck shell=bash
# Sourced behind environment.sh: the servers and tools that tests start, as Debian packages.

# Install what is missing, where we may. What then is still missing is in the list `missing_tools`, a sentence each.
provide_servers() {
  local packages=()
  has_mosquitto || packages+=(mosquitto mosquitto-clients)
  has_postgresql || packages+=(postgresql)
  has_libfiu || packages+=(fiu-utils)
  has_libfaketime || packages+=(libfaketime)
  if [[ ${#packages[@]} -gt 0 ]] && may_be_root; then
    without_services apt_install "${packages[@]}" || say "apt could not install ${packages[*]}"
  fi
  missing_tools=()
  has_mosquitto || missing_tools+=("Mosquitto      MISSING, its tests were skipped (package mosquitto)")
  has_postgresql || missing_tools+=("PostgreSQL     MISSING, its tests were skipped (package postgresql)")
  has_libfiu || missing_tools+=("libfiu         MISSING, its tests were skipped (package fiu-utils)")
  has_libfaketime || missing_tools+=("libfaketime    MISSING, its tests were skipped (package libfaketime)")
}

# Debian keeps the first two outside the PATH of ordinary users.
has_mosquitto() { PATH=$PATH:/usr/sbin:/usr/local/sbin command -v mosquitto >/dev/null; }
has_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

has_libfiu() { command -v fiu-ctrl >/dev/null; }
has_libfaketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null; }

# The tests start servers of their own; those that the packages would start only take ports and memory.
without_services() {
  local policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.d/chapar-tests.conf result=0
  local mine=("$cluster")
  [[ -e $policy ]] || mine+=("$policy")
  # shellcheck disable=SC2064  # the files of now
  trap "as_root rm -f ${mine[*]}" EXIT
  printf 'create_main_cluster = false\n' | as_root install -D -m 644 /dev/stdin "$cluster"
  [[ -e $policy ]] || printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin "$policy"
  "$@" || result=$?
  as_root rm -f "${mine[@]}"
  trap - EXIT
  if command -v systemctl >/dev/null; then
    as_root systemctl --quiet disable mosquitto.service 2>/dev/null || true
  fi
  return "$result"
}
