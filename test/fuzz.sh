#!/bin/sh
# fuzz.sh [TIME [guided]]: lets every fuzz test invent inputs for TIME (2s), beyond
# those that "go test" repeats. What one finds is left in its package's
# testdata/fuzz, to be kept. Guided ones look which inputs reach new code, for
# which everything is compiled anew, for minutes; the time is for inputs, not for
# making those smaller that do.
set -eu
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
time=${1:-2s} guided=${2:-}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM

# fuzz lets $name of $folder run for TIME, or as many times as NUMBERx.
fuzz() { # TIME
	if [ -n "$guided" ]; then
		"${GO:-go}" test -run '^$' -fuzz "^$name\$" -fuzztime "$1" -fuzzminimizetime 100x "./$folder"
	else
		(cd "$folder" && "$tmp/tests" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$1" -test.fuzzcachedir "$tmp/cache")
	fi </dev/null >"$tmp/said" 2>&1
}

grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' cmd lib test | xargs -n 1 dirname | sort -u >"$tmp/folders"
while read -r folder; do
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$folder"/*_test.go >"$tmp/names"
	[ -n "$guided" ] || "${GO:-go}" test -c -o "$tmp/tests" "./$folder"
	while read -r name; do
		echo "$folder $name"
		# Go takes it for a failure if the time is over before the seeds have run,
		# some of which have to be made first.
		fuzz "$time" || { grep -q '^ *context deadline exceeded$' "$tmp/said" && fuzz 100x; } || { cat "$tmp/said"; exit 1; }
		tail -n 2 "$tmp/said" | grep -o 'execs: [0-9]*' || :
	done <"$tmp/names"
done <"$tmp/folders"
