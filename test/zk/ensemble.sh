#!/usr/bin/env bash
# A ZooKeeper of one or three nodes on this machine, without systemd: everything
# it writes is below DIR, and it listens on loopback, on ports that were free.
#
#   up DIR [N]          make and start N nodes (1 unless given), wait until they serve
#   down DIR [NODE]     stop; without NODE all
#   start DIR [NODE]    start what is down again, and wait until it serves
#   kill DIR [NODE]     stop as a power cut would (-9)
#   pause DIR [NODE]    SIGSTOP
#   resume DIR [NODE]   SIGCONT
#   servers DIR         host:port,host:port
#   secure DIR          the same with TLS (ZK_TLS=yes)
#   leader DIR          the number of the node that leads
#   ask DIR NODE WORD   a four-letter word: srvr, mntr, cons, ...
# For those who look after the processes themselves:
#   config DIR [N]      only write the configuration
#   run DIR NODE        become the server
#
# Environment, for up and config: ZK_TICK (ms, 1000), ZK_FSYNC (yes|no),
# ZK_TLS (yes|no; the keys are in DIR/tls), ZK_HOSTS (addresses of the nodes,
# separated by commas: the ports are then the usual ones), ZK_CONFIG (more
# lines for zoo.cfg). For starting: ZK_HEAP (256m), ZK_JVM (more flags),
# ZK_WAIT (seconds to wait for a node, 60).
set -euo pipefail

jars=/usr/share/java
fail() { echo "ensemble: $*" >&2; exit 1; }

# nodes prints the node that was asked for, or all.
nodes() { # [NODE]
	if [ -n "${1:-}" ]; then
		[ -f "$dir/n$1/zoo.cfg" ] || fail "$dir has no node $1"
		echo "$1"
	else
		local d
		for d in "$dir"/n[0-9]*; do [ ! -f "$d/zoo.cfg" ] || echo "${d##*/n}"; done
	fi
}

# pid prints a node's process, if it runs: a number that another program has
# got since is not it.
pid() { # NODE
	local p
	p=$(cat "$dir/n$1/pid" 2>/dev/null) && [ -n "$p" ] || return 1
	grep -qF "$dir/n$1/zoo.cfg" "/proc/$p/cmdline" 2>/dev/null && echo "$p"
}

# free_ports prints N different ports of loopback on which nobody listens,
# below those that the system gives to outgoing connections.
free_ports() { # N
	local ports=' ' p i=0
	while [ "$i" -lt "$1" ]; do
		p=$((15000 + (RANDOM * 32768 + RANDOM) % 17000))
		case $ports in *" $p "*) continue ;; esac
		if (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then continue; fi
		ports="$ports$p "
		i=$((i + 1))
	done
	echo "$ports"
}

# keys makes a certificate authority, a certificate for the servers and one
# for clients, and a client's from an authority that the servers do not know.
keys() { # HOST...
	local d=$dir/tls san=DNS:localhost h
	for h in "$@"; do san="$san,IP:$h"; done
	mkdir -p "$d"
	authority() { # NAME
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$1" \
			-keyout "$d/$1.key" -out "$d/$1.pem" 2>/dev/null
	}
	certificate() { # NAME AUTHORITY EXTENSIONS
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$d/$1.key" -out "$d/$1.csr" 2>/dev/null
		openssl x509 -req -in "$d/$1.csr" -CA "$d/$2.pem" -CAkey "$d/$2.key" -CAcreateserial -days 3650 \
			-extfile <(echo "$3") -out "$d/$1.pem" 2>/dev/null
	}
	authority ca
	authority stranger
	certificate server ca "subjectAltName=$san"
	certificate client ca extendedKeyUsage=clientAuth
	certificate intruder stranger extendedKeyUsage=clientAuth
	cat "$d/server.key" "$d/server.pem" >"$d/server-both.pem"
	rm -f "$d"/*.csr "$d"/*.srl
}

# config writes one folder a node: zoo.cfg, data/myid.
config() { # N
	local n=$1 i hosts=() ports tick=${ZK_TICK:-1000} members='' d
	rm -rf "$dir"/n[0-9]* "$dir/tls"
	if [ -n "${ZK_HOSTS:-}" ]; then
		IFS=, read -ra hosts <<<"$ZK_HOSTS"
		[ "${#hosts[@]}" = "$n" ] || fail "$n nodes, but ZK_HOSTS names ${#hosts[@]}"
		for ((i = 0; i < n; i++)); do ports="${ports:-} 2181 2888 3888 2281"; done
	else
		for ((i = 0; i < n; i++)); do hosts+=(127.0.0.1); done
		ports=$(free_ports $((4 * n)))
	fi
	read -ra ports <<<"$ports"
	[ "${ZK_TLS:-no}" = no ] || keys "${hosts[@]}"
	if [ "$n" -gt 1 ]; then
		for ((i = 0; i < n; i++)); do
			members+="server.$((i + 1))=${hosts[i]}:${ports[4 * i + 1]}:${ports[4 * i + 2]}"$'\n'
		done
	fi
	for ((i = 0; i < n; i++)); do
		d=$dir/n$((i + 1))
		mkdir -p "$d/data"
		echo $((i + 1)) >"$d/data/myid"
		{
			echo "tickTime=$tick"
			# How long a node may take to join, and to lag, in ticks.
			echo initLimit=20
			echo syncLimit=5
			# Milliseconds to reach another node in an election.
			echo cnxTimeout=2000
			echo "maxSessionTimeout=60000"
			echo "dataDir=$d/data"
			echo "clientPort=${ports[4 * i]}"
			echo "clientPortAddress=${hosts[i]}"
			# The default, 60 an address, is less than the workers of one machine.
			echo maxClientCnxns=0
			echo admin.enableServer=false
			echo '4lw.commands.whitelist=ruok,srvr,stat,mntr,cons,conf,wchs,dump,isro'
			[ "${ZK_FSYNC:-yes}" = yes ] || echo forceSync=no
			if [ "${ZK_TLS:-no}" != no ]; then
				echo serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
				echo authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider
				echo "secureClientPort=${ports[4 * i + 3]}"
				# Without it this port alone would listen on every address.
				echo "secureClientPortAddress=${hosts[i]}"
				echo ssl.clientAuth=need
				echo ssl.keyStore.type=PEM
				echo "ssl.keyStore.location=$dir/tls/server-both.pem"
				echo ssl.trustStore.type=PEM
				echo "ssl.trustStore.location=$dir/tls/ca.pem"
				# The clients' certificates name no host.
				echo ssl.clientHostnameVerification=false
			fi
			printf '%s' "$members"
			[ -z "${ZK_CONFIG:-}" ] || printf '%s\n' "$ZK_CONFIG"
		} >"$d/zoo.cfg"
	done
}

# run becomes the server. The class path of Debian's jar lacks a logger, and
# parts of Netty that TLS needs.
run() { # NODE
	local d=$dir/n$1 path=$jars/zookeeper.jar jar flags
	for jar in slf4j-simple netty-codec netty-resolver netty-transport-native-unix-common; do path=$path:$jars/$jar.jar; done
	read -ra flags <<<"${ZK_JVM:-}"
	cd "$d"
	echo $$ >"$d/pid"
	exec java -server -Xms32m "-Xmx${ZK_HEAP:-256m}" -XX:+UseSerialGC -XX:+ExitOnOutOfMemoryError -Xss512k \
		-XX:MaxDirectMemorySize=64m -XX:-UsePerfData -Djava.io.tmpdir="$d" -Djava.net.preferIPv4Stack=true \
		-Dzookeeper.jmx.log4j.disable=true -Dorg.slf4j.simpleLogger.defaultLogLevel="${ZK_LOG:-warn}" \
		-Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
		${flags[@]+"${flags[@]}"} -cp "$path" org.apache.zookeeper.server.quorum.QuorumPeerMain "$d/zoo.cfg" \
		>>"$d/log" 2>&1 </dev/null
}

value() { sed -n "s/^$2=//p" "$dir/n$1/zoo.cfg"; } # NODE KEY

servers() { # PORT-KEY ADDRESS-KEY
	local i list=
	for i in $(nodes); do
		[ -n "$(value "$i" "$1")" ] || fail "$dir has no $1"
		list="$list,$(value "$i" "$2"):$(value "$i" "$1")"
	done
	echo "${list#,}"
}

ask() { # NODE WORD
	(
		exec 3<>"/dev/tcp/$(value "$1" clientPortAddress)/$(value "$1" clientPort)"
		printf %s "$2" >&3
		timeout 2 cat <&3
	) 2>/dev/null
}

mode() { ask "$1" srvr | sed -n 's/^Mode: //p'; } # NODE

launch() { # NODE...
	local i
	for i in "$@"; do
		if [ -z "$(pid "$i")" ]; then
			setsid bash "$0" run "$dir" "$i" </dev/null >/dev/null 2>&1 &
		fi
	done
}

# await waits until nodes serve: a Mode in the answer to srvr. It fails at
# once if a node has ended.
await() { # NODE...
	local i end=$((SECONDS + ${ZK_WAIT:-60})) seen
	for i in "$@"; do
		seen=
		until [ -n "$(mode "$i")" ]; do
			if [ -n "$(pid "$i")" ]; then seen=yes; elif [ -n "$seen" ]; then return 1; fi
			! taken "$i" && [ "$SECONDS" -lt "$end" ] || return 1
			sleep 0.05
		done
	done
}

taken() { grep -q 'Address already in use' "$dir/n$1/log" 2>/dev/null; } # NODE

start() { # [NODE]
	local list i
	read -rd '' -a list < <(nodes "${1:-}") || true
	for i in "${list[@]}"; do rm -f "$dir/n$i/log"; done
	launch "${list[@]}"
	await "${list[@]}" || fail "not serving; see $dir/n*/log"
}

up() { # N
	local i try
	for try in 1 2 3 4 5; do
		config "$1"
		# shellcheck disable=SC2046
		launch $(nodes)
		# shellcheck disable=SC2046
		if await $(nodes); then return; fi
		for i in $(nodes); do taken "$i" && continue 2; done
		break
	done
	for i in $(nodes); do
		echo "ensemble: log of node $i (try $try):"
		tail -n 20 "$dir/n$i/log"
	done >&2
	down
	fail "not serving"
}

down() { # [NODE]
	local i p n
	for i in $(nodes "${1:-}"); do
		p=$(pid "$i") || continue
		kill "$p" || continue
		kill -CONT "$p" || true # it may be paused
		n=0
		while [ -n "$(pid "$i")" ]; do
			n=$((n + 1))
			if [ "$n" = 100 ]; then kill -9 "$p" || true; fi
			sleep 0.05
		done
		rm -f "$dir/n$i/pid"
	done
}

signal() { # SIGNAL [NODE]
	local i p
	for i in $(nodes "${2:-}"); do
		p=$(pid "$i") || fail "node $i does not run"
		kill "-$1" "$p"
		while [ "$1" = KILL ] && [ -n "$(pid "$i")" ]; do sleep 0.02; done
	done
}

[ $# -ge 2 ] || fail "usage: ensemble.sh up|down|start|kill|pause|resume|servers|secure|leader|ask|config|run DIR [...]"
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
shift 2
case $command in
up) [ -f "$jars/zookeeper.jar" ] || fail "no $jars/zookeeper.jar: install the package zookeeper"; up "${1:-1}" ;;
config) config "${1:-1}" ;;
run) run "$1" ;;
start) start "${1:-}" ;;
down) down "${1:-}" ;;
kill) signal KILL "${1:-}" ;;
pause) signal STOP "${1:-}" ;;
resume) signal CONT "${1:-}" ;;
servers) servers clientPort clientPortAddress ;;
secure) servers secureClientPort secureClientPortAddress ;;
leader) for i in $(nodes); do case $(mode "$i") in leader | standalone) echo "$i" ;; esac; done ;;
ask) ask "$1" "$2" ;;
*) fail "unknown command: $command" ;;
esac
