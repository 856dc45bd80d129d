#!/bin/sh
# A real build of this repository, end to end, on this machine alone: a
# frontend, two workers, a job that builds and tests a program and publishes
# it, and a second job that copies that program and runs it.
#
# With DISTCI_SANDBOX=lxc each step runs in a container, for which it takes root
# and LXC; else they run as you.
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

# contain makes what containers of this demo need: an image of this machine's
# own shell and git, and the operator's table of what tools get besides. The
# image has no compiler: steps get the machine's Go, and the modules that it has,
# to be read, and one cache for what they compile. None of them has a network.
contain() {
	distci-lxc check >/dev/null
	sh test/rootfs/make.sh "$tmp/root" git git-upload-pack
	goroot=$(go env GOROOT)
	ln -s "$goroot/bin/go" "$tmp/root/bin/go"
	export DISTCI_IMAGES="$tmp/images" DISTCI_IMAGE=demo DISTCI_GRANTS="$tmp/grants.json"
	distci-lxc image import demo "$tmp/root" >/dev/null
	GOMODCACHE=$(go env GOMODCACHE) GOCACHE=$tmp/go-cache GOPROXY=off GOFLAGS="${GOFLAGS:-} -buildvcs=false"
	export GOMODCACHE GOCACHE GOPROXY GOFLAGS
	mkdir "$GOCACHE" "$tmp/mirror"
	cat >"$DISTCI_GRANTS" <<-GRANTS
		{"git-checkout": {"mounts": [{"source": "$top", "read_only": true}]},
		 "execute-shell": {"mounts": [
		   {"source": "$GOMODCACHE", "read_only": true},
		   {"source": "$goroot", "read_only": true},
		   {"source": "$GOCACHE"}]}}
	GRANTS
}

export DISTCI_SANDBOX="${DISTCI_SANDBOX:-plain}"
[ "$DISTCI_SANDBOX" = plain ] || contain

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
echo "demo: a frontend at $DISTCI_URL, two workers, sandbox $DISTCI_SANDBOX"

sed "s|@REPOSITORY@|$top|; s|@REF@|$(git rev-parse HEAD)|" examples/demo/distci.json >"$tmp/distci.json"
distci-buildctl job set "$tmp/distci.json" examples/demo/distci-smoke.json
distci-buildctl trigger --follow distci

# The finished build has triggered the second one, in the same transaction.
echo 'demo: the build of distci-smoke that it has triggered'
distci-buildctl log --follow distci-smoke 1
