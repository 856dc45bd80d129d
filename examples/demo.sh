#!/bin/sh
# A real build of this repository, end to end, on this machine alone: a
# frontend, two workers, a job that builds and tests a program and publishes
# it, and a second job that copies that program and runs it.
set -eu
cd "$(dirname "$0")/.."
top=$(pwd)
tmp=$(mktemp -d)
pids=

finish() {
	status=$?
	trap - EXIT INT TERM
	for p in $pids; do kill "$p" 2>/dev/null || :; done
	for p in $pids; do wait "$p" 2>/dev/null || :; done
	rm -rf "$tmp"
	[ "$status" = 0 ] && echo 'demo: success' || echo "demo: failed with status $status"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

PATH=$top/bin:$PATH
export PATH
export DISTCI_COORD="local:$tmp/coord.db" DISTCI_STORE="dir:$tmp/store" XDG_CONFIG_HOME="$tmp/config"

distci-frontend --listen 127.0.0.1:0 --port-file "$tmp/port" 2>"$tmp/frontend.log" &
pids="$pids $!"
for i in 1 2; do
	distci-claim --loop --name "worker-$i" --state "$tmp/worker-$i" --mirror "$tmp/mirror" \
		--pass-env GOFLAGS,GOPROXY,GOCACHE,GOMODCACHE,GOPATH 2>"$tmp/worker-$i.log" &
	pids="$pids $!"
done
n=0
until [ -s "$tmp/port" ]; do
	n=$((n + 1))
	[ $n -lt 100 ] || { cat "$tmp/frontend.log"; exit 1; }
	sleep 0.1
done
DISTCI_URL=http://127.0.0.1:$(cat "$tmp/port")
export DISTCI_URL
echo "demo: a frontend at $DISTCI_URL, two workers"

sed "s|@REPOSITORY@|$top|; s|@REF@|$(git rev-parse HEAD)|" examples/demo/distci.json >"$tmp/distci.json"
distci-buildctl job set "$tmp/distci.json" examples/demo/distci-smoke.json
distci-buildctl trigger --follow distci

# The finished build has triggered the second one, in the same transaction.
echo 'demo: the build of distci-smoke that it has triggered'
distci-buildctl log --follow distci-smoke 1
