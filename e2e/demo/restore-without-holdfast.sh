#!/usr/bin/env bash
# Gets the archive of one database out of a store with stock tools only: rclone (or any S3 client), jq, age, zstd, sha256sum.
#   restore-without-holdfast.sh FROM COPY DATABASE IDENTITY TO
#     FROM      the store's prefix for rclone, such as copy:backups/demo, or a folder
#     COPY      <namespace>/<source>/<run>, as in the run's status.copy.path
#     DATABASE  a name in the copy
#     IDENTITY  a file with the age identity; not read where the copy is not encrypted, or by a passphrase: age asks for it at the terminal
#     TO        a folder that is made; TO/DATABASE.dump is then for pg_restore, TO/globals.sql for psql
set -euo pipefail
from=$1 copy=$2 database=$3 identity=$4 to=$5
umask 077
# Debian's rclone cannot work with it; `rclone --ca-cert` says the same.
unset AWS_CA_BUNDLE
mkdir -p "$to"
trap 'rm -f "$to/key.txt" "$to/part"' EXIT

# 1. What the copy holds, and where.
rclone copy "$from/catalog/$copy" "$to/catalog/$copy"
jq -e .manifest "$to/catalog/$copy/outcome.json" > "$to/manifest.json" || { echo "error: no copy was committed under $copy" >&2; exit 1; }
stream=$(jq -er --arg database "$database" '.contents.databases[] | select(.name == $database) | .stream' "$to/manifest.json")

# 2. The run's own key, sealed to the store's recipients or by its passphrase.
decrypt=(age -d -i "$to/key.txt")
if key=$(jq -er .encryption.age.key "$to/manifest.json"); then
  # What the manifest names, or what rekey sealed to others beside it.
  for sealed in "$to/$key" "$to/${key%-*.age}"-*.age; do
    age -d -i "$identity" -o "$to/key.txt" "$sealed" && break
  done
  test -s "$to/key.txt"
elif key=$(jq -er .encryption.passphrase.key "$to/manifest.json"); then
  age -d -o "$to/key.txt" "$to/$key"
else
  decrypt=(cat)
fi

# 3. The parts in order: fetched, compared with the manifest, decrypted, joined and decompressed.
fetch() { # STREAM
  local object sha256
  while read -r sha256 object; do
    rclone copyto "$from/$object" "$to/part"
    echo "$sha256  $to/part" | sha256sum --check --quiet >&2
    "${decrypt[@]}" < "$to/part"
  done < <(jq -r --arg stream "$1" '.streams[] | select(.name == $stream) | .parts[] | .sha256 + " " + .object' "$to/manifest.json") | zstd -dc
}
fetch "$stream" > "$to/$database.dump"
globals=$(jq -r '.streams[] | select(.kind == "postgresql-globals") | .name' "$to/manifest.json")
[ -z "$globals" ] || fetch "$globals" > "$to/globals.sql"
