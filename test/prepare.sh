#!/bin/sh
# Installs what the tests and checks use besides Go, git and make, if it is
# missing and we may; otherwise it says what will be skipped.
set -eu
missing=
for c in curl jq zstd mandoc shellcheck; do
	command -v "$c" >/dev/null || missing="$missing $c"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "prepare: missing:$missing; the tests that use them are skipped"
fi
