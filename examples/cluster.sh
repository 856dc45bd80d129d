#!/usr/bin/env bash
# What happens when a third of a cluster dies: three zones on this machine, each
# with a ZooKeeper node, a frontend and three or four workers; and, if the store
# is in Ceph, with a monitor and an OSD. Builds run, one zone is killed in the
# middle (-9), and the rest ends them. A report tells what was redone, by whom,
# and whether everything that was promised has been kept: status 0, or 1 and what
# is wrong. It takes half a minute and more.
#
#   BUILDS=20              how many builds to begin
#   STORE=ceph|dir         where what lasts is kept; Ceph if this machine has its
#                          servers, and else a folder
#   DISTCI_SANDBOX=lxc     each step runs in a container, for which it takes root
#                          and LXC; else they run as you
#
# The ZooKeeper nodes come from test/zk/ensemble.sh and Ceph from
# test/ceph/cluster.sh; for real machines see examples/zoo.cfg and examples/systemd.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

say() { printf '%3ds  %s\n' "$SECONDS" "$*"; }
reason=
fail() { reason=$*; exit 1; }

missing=
[ -f /usr/share/java/zookeeper.jar ] && command -v java >/dev/null || missing=" zookeeper"
command -v jq >/dev/null || missing="$missing jq"
if [ -n "$missing" ]; then
	echo "cluster: this needs a ZooKeeper server and jq; on Debian: apt-get install --no-install-recommends$missing" >&2
	exit 69
fi

builds=${BUILDS:-20}
if ! [[ $builds =~ ^[1-9][0-9]*$ ]] || [ "$builds" -lt 10 ]; then echo "cluster: BUILDS=$builds: expected a number, at least 10" >&2; exit 64; fi
STORE=${STORE:-$(if command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null && [ -x bin/distci-claim-ceph ]; then echo ceph; else echo dir; fi)}
case $STORE in
dir) ;;
ceph) [ -x bin/distci-claim-ceph ] || { echo 'cluster: bin/ has no programs for Ceph: install librados-dev, then make' >&2; exit 69; } ;;
*) echo "cluster: STORE=$STORE: expected ceph or dir" >&2; exit 64 ;;
esac

tmp=$(mktemp -d "${TMPDIR:-/tmp}/distci-cluster-XXXXXX")
keepers=() fronts=() # the processes, by zone
mons=() osds=()
workers=()           # by number, from 1
zone_of=(0 1 1 1 1 2 2 2 3 3 3)

# end stops processes and waits until they have ended; after 5 s they are killed.
end() { # SIGNAL PID...
	local signal=$1 p n
	shift
	for p; do kill "-$signal" "$p" 2>/dev/null || :; done
	n=0
	for p; do
		while kill -0 "$p" 2>/dev/null; do
			n=$((n + 1))
			[ $n -lt 100 ] || kill -9 "$p" 2>/dev/null || :
			sleep 0.05
		done
	done
}

# finish leaves nothing behind. Workers go first, while there is somebody to
# whom they can give back what they hold.
finish() {
	local status=$?
	trap '' INT TERM HUP
	trap - EXIT ERR
	case $status in
	0) ;;
	130 | 143) reason='broken off' ;;
	*)
		status=1
		echo 'What the processes said last:'
		grep -v -e 'taking tickets' -e 'listening on' -e 'request method=' "$tmp"/*.log | tail -n 30 | sed "s|^$tmp/||" || :
		;;
	esac >&2
	end INT "${workers[@]}"
	end INT "${fronts[@]}"
	end TERM "${keepers[@]}"
	end KILL "${osds[@]}" "${mons[@]}"
	rm -rf "$tmp"
	if [ $status = 0 ]; then echo 'cluster: success'; else echo "cluster: failed: $reason" >&2; fi
	exit $status
}
trap finish EXIT
trap 'reason="line $LINENO: $BASH_COMMAND: status $?"' ERR
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# until_true repeats a command until it succeeds.
until_true() { # SECONDS WHAT COMMAND...
	local limit=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -lt $limit ] || fail "$what: not within the time"
		sleep 0.1
	done
}

# ---- three zones

ensemble() { bash test/zk/ensemble.sh "$@"; }

keepers_serve() {
	local z
	for z in 1 2 3; do
		kill -0 "${keepers[z]}" 2>/dev/null || fail "ZooKeeper $z has ended: $(tail -n 5 "$tmp/zk/n$z/log")"
		ensemble ask "$tmp/zk" $z srvr 2>/dev/null | grep -q '^Mode: ' || return 1
	done
}

# Session time-outs of 4 s are eight ticks of 0.5 s.
ZK_TICK=500 ensemble config "$tmp/zk" 3
for z in 1 2 3; do
	bash test/zk/ensemble.sh run "$tmp/zk" $z & # it becomes the server
	keepers[z]=$!
	disown
done
until_true 60 'the ZooKeeper nodes serve' keepers_serve
say "three ZooKeeper nodes: $(ensemble servers "$tmp/zk"); node $(ensemble leader "$tmp/zk") leads"

DISTCI_STORE=dir:$tmp/store
if [ "$STORE" = ceph ]; then
	bash test/ceph/cluster.sh config "$tmp/ceph" 3 3
	letters=abc
	for z in 1 2 3; do
		bash test/ceph/cluster.sh run "$tmp/ceph" "mon.${letters:z-1:1}" >>"$tmp/mon-$z.out" 2>&1 &
		mons[z]=$!
		disown
		bash test/ceph/cluster.sh run "$tmp/ceph" "osd.$((z - 1))" >>"$tmp/osd-$z.out" 2>&1 &
		osds[z]=$!
		disown
	done
	bash test/ceph/cluster.sh pool "$tmp/ceph"
	DISTCI_STORE=$(bash test/ceph/cluster.sh address "$tmp/ceph")
	say "Ceph with three monitors and three OSDs; $(bash test/ceph/cluster.sh leader "$tmp/ceph") leads"
fi

# All that a process has to know: the same for each, in every zone.
DISTCI_COORD="zk://$(ensemble servers "$tmp/zk")/example"
export DISTCI_COORD DISTCI_STORE DISTCI_HISTORY="$tmp/history"
export XDG_CONFIG_HOME="$tmp/config" XDG_STATE_HOME="$tmp/state" XDG_CACHE_HOME="$tmp/cache" TZ=UTC
PATH=$PWD/bin:$PATH
export DISTCI_SANDBOX="${DISTCI_SANDBOX:-plain}"
if [ "$DISTCI_SANDBOX" != plain ]; then
	distci-lxc check >/dev/null
	sh test/rootfs/make.sh "$tmp/root" # this machine's shell and some of its programs
	export DISTCI_IMAGES="$tmp/images" DISTCI_IMAGE=example
	distci-lxc image import example "$tmp/root" >/dev/null
fi

for z in 1 2 3; do
	distci-frontend --listen 127.0.0.1:0 --port-file "$tmp/port-$z" --state "$tmp/frontend-$z" \
		--session-timeout 4s 2>"$tmp/frontend-$z.log" &
	fronts[z]=$!
	disown
done
for w in {1..10}; do
	distci-claim --loop --name "zone${zone_of[w]}-worker$w" --state "$tmp/worker-$w" \
		--session-timeout 4s 2>"$tmp/worker-$w.log" &
	workers[w]=$!
	disown
done
for z in 1 2 3; do until_true 30 "frontend $z serves" test -s "$tmp/port-$z"; done

# ctl asks one of the frontends, as a load balancer would choose it: any that
# lets us connect; if it answers "not now" (503), another.
ctl() {
	local n=$RANDOM limit=$((SECONDS + 30)) port status=75
	while [ $status = 75 ] && [ $SECONDS -lt $limit ]; do
		n=$((n + 1))
		port=$(cat "$tmp/port-$((n % 3 + 1))")
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue; fi
		status=0
		DISTCI_URL=http://127.0.0.1:$port distci-buildctl "$@" 2>"$tmp/error" || status=$?
		[ $status != 75 ] || { cat "$tmp/error" >>"$tmp/refused"; sleep 0.2; }
	done
	[ $status = 0 ] || cat "$tmp/error" >&2
	return $status
}

all_members() { [ "$(ctl members --json | jq -s length)" = 13 ]; }
until_true 30 'three frontends and ten workers are members' all_members
say "three frontends, ten workers; each knows only DISTCI_COORD=$DISTCI_COORD and the store"

# ---- builds

cat >"$tmp/app.json" <<'JOB'
{
  "job_id": "app",
  "tasks": [
    {"name": "configure", "type": "execute-shell", "params": {"script": ["echo \"build $BUILD_NUMBER\" >config", "sleep 0.3"]}},
    {"name": "compile", "type": "execute-shell", "params": {"script": [
      "grep -qx \"build $BUILD_NUMBER\" config",
      "# Nothing that a killed attempt had half done is here.",
      "test ! -e app.part",
      "echo \"made from $(cat config)\" >app.part",
      "sleep 2",
      "mv app.part app"]}},
    {"name": "test", "type": "execute-shell", "params": {"script": ["grep -qx \"made from build $BUILD_NUMBER\" app", "sleep 1", "mkdir tested"]}},
    {"name": "publish", "type": "publish-artifacts", "params": {"artifacts": ["app"]}}
  ],
  "downstream_jobs": ["deploy"]
}
JOB
cat >"$tmp/deploy.json" <<'JOB'
{
  "job_id": "deploy",
  "tasks": [
    {"name": "copy", "type": "copy-artifacts", "params": {"job": "app", "artifacts": ["app"]}},
    {"name": "install", "type": "execute-shell", "params": {"script": ["grep -q '^made from build' app", "sleep 0.5"]}}
  ]
}
JOB
ctl job set "$tmp/app.json" "$tmp/deploy.json"

trigger() { # N
	local i
	for ((i = 0; i < $1; i++)); do ctl trigger app >>"$tmp/numbers" || fail 'a build could not be triggered'; done
}
first=$((builds * 3 / 5))
trigger $first
say "$first builds of \"app\" triggered (configure, compile, test, publish); each that succeeds triggers one of \"deploy\""

# ---- a zone dies: the one with ZooKeeper's leader

zone=$(ensemble leader "$tmp/zk")
killed=()
for w in {1..10}; do [ "${zone_of[w]}" != "$zone" ] || killed+=("$w"); done
zone_compiles() {
	ctl members --json >"$tmp/members" &&
		jq -es --arg zone "zone$zone-" '[.[] | select(.name | startswith($zone)) | .runs[]? | select(.name == "compile")] | length >= 2' "$tmp/members" >/dev/null
}
# Of few builds all are compiled before the first ends.
some_ended() { [ "$(ctl list app | cut -f 2 | grep -cx success)" -ge $(((first - 20) / 4)) ]; }
until_true $((60 + builds)) 'some builds end' some_ended
until_true 60 "workers of zone $zone compile" zone_compiles
say 'this is who is there (distci-buildctl members):'
ctl members | sed 's/^/        /'
victims=("${keepers[zone]}" "${fronts[zone]}")
[ -z "${osds[zone]:-}" ] || victims+=("${osds[zone]}" "${mons[zone]}")
for w in "${killed[@]}"; do victims+=("${workers[w]}"); done
killed_at=$(date +%s.%N)
say "kill -9: all of zone $zone: ZooKeeper's leader, a frontend, workers ${killed[*]}${osds[zone]:+, a monitor and an OSD}"
end KILL "${victims[@]}"
unset "keepers[zone]" "fronts[zone]" "osds[zone]" "mons[zone]"
for w in "${killed[@]}"; do unset "workers[w]"; done


rm -f "$tmp/refused"
trigger $((builds - first))
say "$((builds - first)) more builds triggered; the last had its number $(jq -nr "$(date +%s.%N) - $killed_at | . * 10 | round / 10") s after the kill"
if [ -s "$tmp/refused" ]; then
	say "while there was no leader, requests were put off $(wc -l <"$tmp/refused") times, such as:"
	head -n 1 "$tmp/refused" | fold -s -w 100 | sed 's/^/        /'
fi

# As many builds of "deploy" as successful ones of "app", and all have ended.
ended() {
	ctl list app >"$tmp/app" || fail 'the builds could not be listed'
	ctl list deploy >"$tmp/deploy" || fail 'the builds could not be listed'
	[ "$(cut -f 2 "$tmp/app" | grep -cx success)" = "$(wc -l <"$tmp/deploy")" ] &&
		! cut -f 2 "$tmp/app" "$tmp/deploy" | grep -qvx -e success -e failure -e error -e canceled
}
until_true $((120 + 3 * builds)) 'all builds end' ended
say 'all builds have ended'

# ---- the report

wrong=()
idle() { [ -z "$(ctl queue --json)" ] && [ "$(ctl members --json | jq -s 'map(.runs // [] | length) | add')" = 0 ]; }
until_true 20 'nothing waits and nobody works' idle

# The history is what the processes wrote down of what they did to tickets; a
# killed one may not have written its last event.
report=$(jq -nR --argjson killed_at "$killed_at" --arg dead "zone$zone-" --slurpfile jobs <(cat "$tmp"/{app,deploy}.json) '
	def seconds: capture("^(?<s>[^.Z]*)(?<f>\\.[0-9]+)?Z$") | (.s + "Z" | fromdate) + ("0" + (.f // "") | tonumber);
	def name: . as $e | "\(.job) #\(.build) " +
		if .step then $jobs[] | select(.job_id == $e.job) | .tasks[$e.step | tonumber].name else "control" end;
	[inputs | fromjson] | map(.end |= seconds) | sort_by(.end) | group_by(.ticket) | map({
		name: (.[0] | name),
		step: .[0].step,
		claims: map(select(.event == "claim" and .outcome == "done")),
		back: map(select((.event == "requeue" or .event == "release") and .outcome == "done")),
		commits: map(select(.event == "commit" and .outcome != "lost"))
	} | . + {
		certain: (.commits | map(select(.outcome == "done")) | length),
		open: (any(.commits[]; .outcome == "unknown") or (.claims[-1].worker // "" | startswith($dead)))
	}) | {
		steps: map(select(.step)) | length,
		tickets: length,
		wrong: [
			(.[] | select(.certain > 1) | "\(.name): committed \(.certain) times"),
			(.[] | select(.certain == 0 and (.open | not)) | "\(.name): never committed"),
			(map(select(.step)) | group_by(.name)[] | select(length > 1) | "\(.[0].name): \(length) tickets")],
		redone: [.[] | . as $t | .claims | range(1; length) as $i | {
			step: $t.name, by: .[$i].worker, instead: .[$i - 1].worker,
			killed: (.[$i - 1].worker | startswith($dead)),
			ready: ((([$t.back[] | .end | select(. <= $t.claims[$i].end)] | max) // .[$i].end) - $killed_at),
			claimed: (.[$i].end - $killed_at)}] | sort_by(.claimed)
	}' "$tmp/history")
mapfile -t wrong < <(jq -r '.wrong[]' <<<"$report")

all=$(cat "$tmp/app" "$tmp/deploy" | wc -l)
red=$(cat "$tmp/app" "$tmp/deploy" | cut -f 2 | grep -cvx success || :)
apps=$(wc -l <"$tmp/app")
[ "$red" = 0 ] || wrong+=("$red builds were not successful")
[ "$(cut -f 1 "$tmp/app" | sort -n | tr '\n' ' ')" = "$(seq -s ' ' "$apps") " ] || wrong+=('the numbers of the builds have gaps')
while read -r n; do
	cut -f 1 "$tmp/app" | grep -qx "$n" || wrong+=("build $n was given its number and is not there")
done <"$tmp/numbers"
[ "$(jq -r .steps <<<"$report")" = $((apps * 4 + apps * 2)) ] || wrong+=("$((apps * 6)) steps were expected")
[ "$(jq '[.redone[] | select(.killed)] | length' <<<"$report")" -gt 0 ] || wrong+=('the killed workers were busy, and nothing was redone')
for p in "${keepers[@]}" "${fronts[@]}" "${workers[@]}" "${osds[@]}" "${mons[@]}"; do
	kill -0 "$p" 2>/dev/null || wrong+=("process $p, which nobody has killed, has ended")
done
expected=$((${#fronts[@]} + ${#workers[@]}))
[ "$(ctl members --json | jq -s length)" = $expected ] || wrong+=("members: expected the $expected that live")
# Every record, log, artefact and layer, read and compared with its digest.
fsck=$(distci-buildctl fsck 2>&1) || wrong+=("distci-buildctl fsck: $fsck")

echo
jq -r --arg builds "$all" --arg extra $((apps - builds)) '
	def s: . * 10 | round / 10 | tostring + " s";
	"\($builds) builds, all ended" + (if $extra != "0" then " (\($extra) more than asked for: triggers whose answer was lost had been carried out)" else "" end),
	"\(.steps) steps (with the control of builds \(.tickets) tickets), each committed once",
	"\(.redone | length) redone, each from the workspace as the step before it had left it; ready again once the session (4 s) of the first",
	"worker had ended, taken by the first that became free:",
	(.redone[] | "    \(.step): begun by \(.instead)\(if .killed then " (killed)" else "" end), done by \(.by); ready again \(.ready | s) after the kill, taken after \(.claimed | s)")
' <<<"$report"
echo "the store, every byte of it read: $(tail -n 1 <<<"$fsck") (distci-buildctl fsck)"
echo "nothing waits, nobody works, and $expected members are there (distci-buildctl queue, members):"
ctl queue | sed 's/^/    /'
ctl members | sed 's/^/    /'
[ ${#wrong[@]} = 0 ] || fail "$(printf '%s; ' "${wrong[@]}")"
