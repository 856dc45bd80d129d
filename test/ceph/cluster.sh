#!/usr/bin/env bash
# A Ceph on this machine, without systemd or root: everything it writes is below
# DIR, and it listens on loopback, on ports that were free. Keep DIR short: the
# path of a unix socket has 107 bytes.
#
#   config DIR [OSDS [MONS]]   only write the configuration, the keys and the
#                              monitors' folders (1 of each unless given)
#   run DIR DAEMON [ARG...]    become the daemon: mon.a, mon.b, ..., osd.0, ...;
#                              an OSD's folder is made when it first runs
#   pool DIR                   make the pool, and wait until it can be written to
#   leader DIR                 the monitor that leads
#   address DIR                the URL of the store, for the client "distci", which may use the
#                              pool and nothing else
#
# With three OSDs or more the pool has three copies, and works with two.
set -euo pipefail

pool=distci
fail() { echo "cluster: $*" >&2; exit 1; }

# free_port prints a port of loopback on which nobody listens, below those that
# the system gives to outgoing connections.
free_port() {
	local p
	while p=$((15000 + (RANDOM * 32768 + RANDOM) % 17000)) && (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do :; done
	echo "$p"
}

# key makes a key and appends its keyring to that of the monitors, who take all
# keys from there when they are made, so that none is made later.
key() { # FILE NAME [SERVICE PERMISSION]...
	local file=$1 name=$2 caps=()
	shift 2
	while [ $# -gt 0 ]; do caps+=(--cap "$1" "$2"); shift 2; done
	ceph-authtool -C "$dir/$file" --gen-key -n "$name" "${caps[@]}" >/dev/null
	[ "$file" = mon.keyring ] || cat "$dir/$file" >>"$dir/mon.keyring"
}

ceph_() { ceph -c "$dir/ceph.conf" "$@"; }

config() { # OSDS MONS
	local osds=$1 mons=$2 i ids=() hosts='' addrs=() size=1 least=1 port fsid
	mkdir -p "$dir"/{run,log,mon,osd}
	fsid=$(cat /proc/sys/kernel/random/uuid)
	for ((i = 0; i < mons; i++)); do
		# shellcheck disable=SC2059 # an octal number: a, b, c
		ids+=("$(printf "\\$(printf %o $((97 + i)))")")
		port=$(free_port)
		hosts="$hosts,[v2:127.0.0.1:$port]"
		addrs+=(--addv "${ids[i]}" "[v2:127.0.0.1:$port]")
	done
	[ "$osds" -lt 3 ] || { size=3 least=2; }
	port=$((15000 + RANDOM % 14000))
	cat >"$dir/ceph.conf" <<-CONF
		[global]
		fsid = $fsid
		mon host = ${hosts#,}
		mon initial members = $(IFS=,; echo "${ids[*]}")
		public addr = 127.0.0.1
		cluster addr = 127.0.0.1
		ms bind msgr1 = false
		ms bind retry count = 1
		ms bind retry delay = 1
		ms bind port min = $port
		ms bind port max = $((port + 3000))
		auth cluster required = cephx
		auth service required = cephx
		auth client required = cephx
		keyring = $dir/\$type.\$id.keyring
		run dir = $dir/run
		admin socket = $dir/run/\$name.asok
		log file = $dir/log/\$name.log
		crash dir = $dir/log
		log to stderr = false
		mon cluster log file = $dir/log/cluster.log
		osd pool default pg num = 8
		osd pool default size = $size
		osd pool default min size = $least
		osd pool default pg autoscale mode = off
		osd crush chooseleaf type = 0
		osd heartbeat interval = 1
		osd heartbeat grace = 5
		[client]
		mon client hunt interval = 0.5
		admin socket =
		log file =
		err to stderr = false
		[mon]
		mon data = $dir/mon/\$id
		mon allow pool delete = true
		mon allow pool size one = true
		mon warn on pool no redundancy = false
		auth allow insecure global id reclaim = false
		mon data avail crit = 1
		mon data avail warn = 2
		paxos propose interval = 0.05
		paxos min wait = 0.02
		mon election timeout = 1
		mon probe timeout = 1
		mon lease = 2
		mon osd min down reporters = 1
		mon osd reporter subtree level = osd
		mon osd down out interval = 600
		[osd]
		osd data = $dir/osd/\$id
		osd objectstore = bluestore
		osd max pg log entries = 3000
		osd min pg log entries = 1500
		osd recovery sleep hdd = 0
		osd memory target = 939524096
		osd op num shards = 2
		osd op num threads per shard = 1
		osd mon report interval = 1
		ms async op threads = 2
		bluestore block size = 34359738368
		bluestore block create = true
		bluestore fsck on mount = false
		bluestore fsck on mkfs = false
		bdev aio poll ms = 20
		osd mon shutdown timeout = 1
	CONF
	rm -f "$dir"/*.keyring
	key mon.keyring mon. mon 'allow *'
	key client.admin.keyring client.admin mon 'allow *' osd 'allow *' mgr 'allow *'
	key client.distci.keyring client.distci mon 'allow r' osd "allow rwx pool=$pool"
	for ((i = 0; i < osds; i++)); do
		key "osd.$i.keyring" "osd.$i" mon 'allow profile osd' mgr 'allow profile osd' osd 'allow *'
	done
	monmaptool --create --clobber --fsid "$fsid" --enable-all-features "${addrs[@]}" "$dir/monmap" >/dev/null
	for i in "${ids[@]}"; do
		ceph-mon -c "$dir/ceph.conf" -i "$i" --mkfs --monmap "$dir/monmap" --keyring "$dir/mon.keyring"
	done
}

# run becomes a daemon.
run() { # KIND.ID [ARG...]
	local kind=${1%%.*} id=${1#*.} uuid args=()
	shift
	case $kind in
	mon) args=(--keyring "$dir/mon.keyring") ;;
	osd)
		if [ ! -f "$dir/osd/$id/mkfs_done" ]; then
			uuid=$(cat /proc/sys/kernel/random/uuid)
			ceph_ --connect-timeout 60 osd new "$uuid" "$id" >/dev/null
			mkdir -p "$dir/osd/$id"
			ceph-osd -c "$dir/ceph.conf" -i "$id" --mkfs --osd-uuid "$uuid" >/dev/null 2>&1
		fi
		;;
	*) fail "no such daemon: $kind.$id" ;;
	esac
	exec "ceph-$kind" -f -c "$dir/ceph.conf" -i "$id" "${args[@]}" "$@"
}

make_pool() {
	ceph_ --connect-timeout 60 osd pool create $pool 16 16 replicated
	ceph_ osd pool application enable $pool $pool
	timeout 120 rados -c "$dir/ceph.conf" -p $pool -N probe put probe "$dir/monmap"
} >/dev/null 2>&1

leader() { ceph_ quorum_status -f json | sed -n 's/.*"quorum_leader_name":"\([^"]*\)".*/mon.\1/p'; }

[ $# -ge 2 ] || fail 'expected VERB DIR, see the head of this file'
verb=$1 dir=$2
shift 2
export CEPH_ARGS='' CEPH_CONF=$dir/ceph.conf
case $verb in
config) config "${1:-1}" "${2:-1}" ;;
run) run "$@" ;;
pool) make_pool || fail 'the pool could not be made' ;;
leader) leader ;;
address) echo "ceph://$pool?conf=$dir/ceph.conf&id=distci&keyring=$dir/client.distci.keyring" ;;
*) fail "no such verb: $verb" ;;
esac
