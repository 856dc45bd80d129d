#!/bin/sh
# A build by hand, with no server: each tool reads one ticket and writes one.
# Usage: pipeline.sh REPOSITORY REF SCRIPT GLOB
# What GLOB matches is in ./out afterwards; the ticket is printed.
set -eu
repository=$1 ref=$2 script=$3 glob=$4
ws=$(mktemp -d)
trap 'rm -rf "$ws"' EXIT

echo '{}' |
	distci-checkout --repository "$repository" --ref "$ref" --workspace "$ws" |
	distci-exec --workspace "$ws" --script "$script" |
	distci-publish --workspace "$ws" --to out "$glob"
