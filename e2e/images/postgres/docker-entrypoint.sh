#!/bin/bash
# Makes a cluster in $PGDATA when there is none, then runs the server; another command is run as it is. Of the official image's settings it knows
# POSTGRES_PASSWORD, POSTGRES_USER, POSTGRES_DB (each also with _FILE), POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD, PGDATA and /docker-entrypoint-initdb.d.
set -euo pipefail
shopt -s nullglob
fail() { echo "error: $*" >&2; exit 1; }

[ $# != 0 ] || set -- postgres
[ "${1#-}" = "$1" ] || set -- postgres "$@"
[ "$1" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres:postgres "$PGDATA" /var/run/postgresql
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

setting() { # NAME DEFAULT: the variable, or what its file holds
  local file="$1_FILE"
  if [ -n "${!1:-}" ]; then
    [ -z "${!file:-}" ] || fail "$1 and $file are both set; set one of them"
    echo "${!1}"
  elif [ -n "${!file:-}" ]; then
    cat "${!file}"
  else
    echo "$2"
  fi
}

initialise() {
  local user database password method folder wrapper=()
  user=$(setting POSTGRES_USER postgres)
  database=$(setting POSTGRES_DB "$user")
  password=$(setting POSTGRES_PASSWORD "")
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  [ -n "$password" ] || [ "$method" = trust ] || fail "no password for the superuser: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"

  folder=$(mktemp -d)
  if ! getent passwd "$(id -u)" > /dev/null; then # initdb wants a name for its user
    echo "postgres:x:$(id -u):$(id -g):PostgreSQL:$PGDATA:/bin/false" > "$folder/passwd"
    echo "postgres:x:$(id -g):" > "$folder/group"
    wrapper=(env LD_PRELOAD=libnss_wrapper.so "NSS_WRAPPER_PASSWD=$folder/passwd" "NSS_WRAPPER_GROUP=$folder/group")
  fi
  (umask 077 && echo "$password" > "$folder/password")
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA" 2> /dev/null || true
  local arguments=()
  eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
  if [ -n "$password" ]; then arguments+=("--pwfile=$folder/password"); fi
  "${wrapper[@]}" initdb --username="$user" --auth-local=trust --auth-host=scram-sha-256 "${arguments[@]}"
  touch "$PGDATA/.initialising"
  echo "host all all all $method" >> "$PGDATA/pg_hba.conf"

  local file files=(/docker-entrypoint-initdb.d/*)
  if [ "$database" != postgres ] || [ ${#files[@]} != 0 ]; then
    # Reachable only by its socket until all that is told below is done.
    pg_ctl -D "$PGDATA" -w start -o "-c listen_addresses=''" > /dev/null
    local psql=(psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc -U "$user")
    if [ "$database" != postgres ]; then
      "${psql[@]}" -d postgres -v database="$database" <<< 'CREATE DATABASE :"database"'
    fi
    for file in "${files[@]}"; do
      case $file in
        *.sh) bash "$file" ;;
        *.sql) "${psql[@]}" -d "$database" -f "$file" ;;
      esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop > /dev/null
  fi
  rm -rf "$folder" "$PGDATA/.initialising"
}

if [ -e "$PGDATA/.initialising" ]; then
  echo "the cluster in $PGDATA was not made to its end: makes it anew"
  find "$PGDATA" -mindepth 1 -delete
fi
[ -s "$PGDATA/PG_VERSION" ] || initialise
exec "$@"
