#!/bin/sh
# Installs what the tests and checks use besides Go, git and make, if it is
# missing and we may; otherwise it says what will be skipped.
set -eu
missing=
for c in curl jq zstd mandoc shellcheck openssl umoci; do
	command -v "$c" >/dev/null || missing="$missing $c"
done
command -v ip >/dev/null || missing="$missing iproute2"
command -v nft >/dev/null || missing="$missing nftables"
# The server's jar and a Java; the package starts no service.
if [ ! -f /usr/share/java/zookeeper.jar ] || ! command -v java >/dev/null; then missing="$missing zookeeper"; fi
# Containers, for other users than root too; the compiler is for the one program
# that links liblxc.
if ! command -v lxc-start >/dev/null || ! pkg-config --exists lxc 2>/dev/null; then missing="$missing lxc lxc-dev pkg-config gcc libc6-dev"; fi
# A throw-away Ceph, and what links to it; the packages start nothing by themselves.
if ! { command -v ceph-mon && command -v ceph-osd; } >/dev/null || [ ! -f /usr/include/rados/librados.h ]; then
	missing="$missing ceph-mon ceph-osd librados-dev gcc libc6-dev"
fi
command -v radosgw >/dev/null || missing="$missing radosgw"
command -v newuidmap >/dev/null || missing="$missing uidmap"
# A second S3 server beside Ceph's, for whoever insists: it takes minutes to build.
versity=${XDG_CACHE_HOME:-$HOME/.cache}/distci-test/versitygw-v1.8.0
case ",${DISTCI_REQUIRE:-}," in *,s3,*)
	[ -x "$versity/versitygw" ] || CGO_ENABLED=0 GOFLAGS='' GOBIN=$versity go install -ldflags='-s -w' github.com/versity/versitygw/cmd/versitygw@v1.8.0
esac
# Prometheus' promtool, for whoever insists; the package itself would start a server.
promtool=${XDG_CACHE_HOME:-$HOME/.cache}/distci-test/prometheus
case ",${DISTCI_REQUIRE:-}," in *,prometheus,*)
	if ! command -v promtool >/dev/null && [ ! -x "$promtool/usr/bin/promtool" ]; then
		mkdir -p "$promtool"
		(cd "$promtool" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
	fi
esac
# A browser for the page; npm for what tells whether everybody can use it.
command -v chromium >/dev/null || missing="$missing chromium"
case ",${DISTCI_REQUIRE:-}," in *,oidc,*|*,browser,*) command -v npm >/dev/null || missing="$missing nodejs npm" ;; esac
if [ -z "$missing" ]; then
	:
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "prepare: missing:$missing; the tests that use them are skipped"
fi
# The provider that the tests sign in at, with exactly what its lock file names.
oidc=${XDG_CACHE_HOME:-$HOME/.cache}/distci-test/oidc-provider-9.13.3
case ",${DISTCI_REQUIRE:-}," in *,oidc,*)
	if [ ! -d "$oidc/node_modules/oidc-provider" ] && command -v npm >/dev/null; then
		mkdir -p "$oidc"
		cp test/oidc/package.json test/oidc/package-lock.json "$oidc"
		(cd "$oidc" && npm ci --silent --no-audit --no-fund --ignore-scripts)
	fi
esac
