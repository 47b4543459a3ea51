#!/bin/sh
# configure-sample.sh FOLDER: clusters that initdb makes listen on all addresses, and need no /dev/shm (pods have little of it).
set -eu
sample=$(find "$1" -name postgresql.conf.sample)
sed -i "s/^#*listen_addresses = .*/listen_addresses = '*'/; s/^#*dynamic_shared_memory_type = .*/dynamic_shared_memory_type = mmap/" "$sample"
grep -q '^dynamic_shared_memory_type = mmap' "$sample"
grep -q "^listen_addresses = '\*'" "$sample"
