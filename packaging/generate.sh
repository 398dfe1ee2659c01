#!/bin/sh
# generate.sh CLONEFS FILE WHAT [TEMPLATE]: `clonefs generate` into FILE, or no FILE when that fails.
set -e
program=$1 file=$2
shift 2
"$program" generate "$@" > "$file.new"
mv "$file.new" "$file"
