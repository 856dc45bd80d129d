#!/bin/sh
# A worker in another language: it takes tickets of type execute-shell over
# REST, with curl and jq, and runs their scripts in a folder of its own.
#
#   rest-worker.sh URL [NAME]     one ticket, if there is one for us; then exit
#   LOOP=1 rest-worker.sh URL     until it is stopped
#
# CAPABILITIES is what it offers, a JSON list; ["execute_shell_v1"] by default.
# The script runs as you, without a sandbox: this is an example.
#
# shellcheck disable=SC2016 # the variables in single quotes are jq's
set -eu

url=${1:?usage: rest-worker.sh URL [NAME]}
url=${url%/}
name=${2:-$(hostname)/$$}
capabilities=${CAPABILITIES:-'["execute_shell_v1"]'}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM

rest() { curl -sS -f "$@"; }

# put sends the ticket that jq makes of $tmp/ticket, and keeps the answer in its
# place. It fails if we do not hold the ticket, or not any longer.
put() {
	jq -c "$@" "$tmp/ticket" >"$tmp/request" &&
		rest -X PUT -H 'Content-Type: application/json' --data-binary "@$tmp/request" -o "$tmp/answer" "$url/tasks/$id" &&
		jq -c .data "$tmp/answer" >"$tmp/ticket"
}

# claim finds a ticket that we can do, and takes it. Others look, too: one that
# is gone or taken meanwhile is none of our business.
claim() {
	for id in $(rest "$url/tasks" | jq -r '.tasks[]'); do
		rest -o "$tmp/answer" "$url/tasks/$id" 2>/dev/null || continue
		jq -c .data "$tmp/answer" >"$tmp/ticket"
		jq -e --argjson can "$capabilities" '.type == "execute-shell" and .status == "pending"
			and .assignee == null and .capabilities - $can == []' "$tmp/ticket" >/dev/null || continue
		put --arg name "$name" '.assignee = $name | .status = "running"' 2>/dev/null && return 0
	done
	return 1
}

# keep shows that we are alive until it is stopped.
keep() {
	trap 'kill "$pause"; exit' TERM
	while :; do
		sleep 20 &
		pause=$!
		wait "$pause"
		rest -X POST -o /dev/null "$url/tasks/$id/lease" || exit
	done
}

# run runs the ticket's script.
run() {
	jq -r '.params.script | if type == "array" then join("\n") else . end' "$tmp/ticket" >"$tmp/script"
	jq -r '.env // {} | to_entries[] | "export \(.key)=\(.value | @sh)"' "$tmp/ticket" >"$tmp/env"
	chmod +x "$tmp/script"
	# shellcheck source=/dev/null
	. "$tmp/env"
	export CI=true JOB_NAME="$job" BUILD_NUMBER="$number" WORKSPACE="$tmp/workspace"
	cd "$WORKSPACE/$(jq -r '.params.working_directory // "."' "$tmp/ticket")" || exit
	case $(head -n 1 "$tmp/script") in
	'#!'*) exec "$tmp/script" ;;
	*) exec sh -e "$tmp/script" ;;
	esac
}

# work does the ticket that we hold. Its steps are joined by hand, since a
# function whose failure is looked at runs without "set -e".
work() {
	job=$(jq -r '.job_id // ""' "$tmp/ticket")
	number=$(jq -r '.build_number // ""' "$tmp/ticket")
	build=$url/jobs/$job/builds/$number
	rm -rf "$tmp/workspace"
	mkdir "$tmp/workspace"
	if [ "$job" ]; then
		rest -o "$tmp/archive" "$build/workspace" && tar -xzf "$tmp/archive" -C "$tmp/workspace" || return
	fi
	keep >/dev/null 2>&1 &
	keeper=$!
	status=0
	(run) >"$tmp/console" 2>&1 </dev/null || status=$?
	kill "$keeper" 2>/dev/null || :
	wait "$keeper" || :
	if [ "$job" ]; then
		rest -H 'Content-Type: text/plain' --data-binary "@$tmp/console" "$build/console" &&
			tar -czf "$tmp/archive" -C "$tmp/workspace" . &&
			rest -X PUT -H 'Content-Type: application/octet-stream' -T "$tmp/archive" "$build/workspace" || return
	else
		cat "$tmp/console"
	fi
	if [ "$status" -eq 0 ]; then
		put '.status = "complete" | .result = "success" | del(.assignee)'
	else
		put --arg error "exit status $status" \
			'.status = "complete" | .result = "failure" | .error = $error | del(.assignee)'
	fi
}

while :; do
	if claim; then
		echo "$name: $(jq -r '"\(.job_id // "ticket") \(.build_number // .id) \(.name // "")"' "$tmp/ticket")" >&2
		if ! work; then
			echo "$name: this ticket was not brought to its end; another worker gets it" >&2
			[ "${LOOP:-}" ] || exit 1
		fi
	elif [ "${LOOP:-}" ]; then
		sleep 1
	fi
	[ "${LOOP:-}" ] || exit 0
done
