#!/bin/sh
# Start as many one-ticket workers on this machine as tickets wait for them, up
# to a number. Meant for a timer: see distci-scale.timer. Workers end by
# themselves when there is nothing to do, so nothing is ever stopped here.
#
#   scale.sh [-n] [MOST]
#
# -n says what would be started, and starts nothing. MOST is 4 by default.
#
# The settings of distci-buildctl say where the queue is. OFFER is a list of
# capabilities: only tickets count that ask for nothing else.
set -eu

dry=
if [ "${1:-}" = -n ]; then
	dry=1
	shift
fi
most=${1:-4}
offer=${OFFER:-build_control_v1 git_checkout_v1 execute_shell_v1 publish_artifacts_v1 copy_artifacts_v1 commit_status_v1}

waiting=$(distci-buildctl queue --json | jq -s --arg offer "$offer" '
	($offer | split(" ")) as $offer
	| map(select(.capabilities - $offer == []) | .ready) | add // 0')

# The instances that run now; for -n, RUNNING says which.
if [ -n "$dry" ]; then
	running=${RUNNING:-}
else
	running=$(systemctl list-units --plain --no-legend --state=active,activating 'distci-claim@*.service' |
		sed -n 's/^distci-claim@\([0-9]*\).*/\1/p' | tr '\n' ' ')
fi

i=1
while [ "$i" -le "$most" ] && [ "$waiting" -gt 0 ]; do
	case " $running " in
	*" $i "*) ;;
	*)
		${dry:+echo} systemctl start --no-block "distci-claim@$i.service"
		waiting=$((waiting - 1))
		;;
	esac
	i=$((i + 1))
done
