#!/bin/sh
# Sends a signed delivery as a forge does, to try a hook without one.
#
#   deliver.sh FORGE URL SECRET-FILE REPOSITORY REF COMMIT [MESSAGE]
#
# FORGE is github, gitlab or gitea; URL is the hook's address; SECRET-FILE has the
# secret that "distci-buildctl hook create" has printed. REF is a full one:
# refs/heads/main, refs/tags/v1, or refs/pull/7/head for a pull request into main.
# Needs curl and openssl.
set -eu
if [ $# -lt 6 ]; then
	sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2
	exit 64
fi
forge=$1 url=$2 secret=$(cat "$3") repository=$4 ref=$5 commit=$6 message=${7:-try it}
case $repository$ref$commit$message in
*[\"\\]*)
	echo 'deliver.sh: quotes and backslashes are too much for so short a script' >&2
	exit 64
	;;
esac
number=$(printf %s "$ref" | sed -n 's,^refs/pull/\([0-9]*\)/head$,\1,p')
author='{"name": "Somebody", "email": "somebody@example.org"}'

case $forge/$number in
gitlab/)
	event="Push Hook" kind=push
	case $ref in refs/tags/*) event="Tag Push Hook" kind=tag_push ;; esac
	payload='{"object_kind": "'$kind'", "ref": "'$ref'", "before": "0000000000000000000000000000000000000000",
		"after": "'$commit'", "checkout_sha": "'$commit'", "user_name": "Somebody", "user_username": "somebody",
		"project": {"path_with_namespace": "'$repository'"}, "total_commits_count": 1,
		"commits": [{"id": "'$commit'", "message": "'$message'", "author": '$author'}]}'
	;;
gitlab/*)
	event="Merge Request Hook"
	payload='{"object_kind": "merge_request", "user": {"username": "somebody"}, "project": {"path_with_namespace": "'$repository'"},
		"object_attributes": {"iid": '$number', "action": "open", "title": "'$message'", "source_branch": "topic", "target_branch": "main",
			"source_project_id": 1, "target_project_id": 1, "last_commit": {"id": "'$commit'", "message": "'$message'", "author": '$author'}}}'
	;;
*/)
	event=push
	payload='{"ref": "'$ref'", "before": "0000000000000000000000000000000000000000", "after": "'$commit'",
		"repository": {"full_name": "'$repository'"}, "sender": {"login": "somebody"}, "commits": [],
		"head_commit": {"id": "'$commit'", "message": "'$message'", "author": '$author'}}'
	;;
*)
	event=pull_request
	payload='{"action": "opened", "number": '$number', "repository": {"full_name": "'$repository'"}, "sender": {"login": "somebody"},
		"pull_request": {"title": "'$message'", "user": {"login": "somebody"},
			"head": {"ref": "topic", "sha": "'$commit'", "repo": {"full_name": "'$repository'"}},
			"base": {"ref": "main", "repo": {"full_name": "'$repository'"}}}}'
	;;
esac

# The signature is the HMAC-SHA-256 of the body. (Here the secret is an argument
# of programs, which others on this machine can see.)
sum=$(printf %s "$payload" | openssl dgst -sha256 -hmac "$secret" | sed 's/.* //')
delivery=$(openssl rand -hex 16)
case $forge in
github) set -- -H "X-GitHub-Event: $event" -H "X-GitHub-Delivery: $delivery" -H "X-Hub-Signature-256: sha256=$sum" ;;
gitea) set -- -H "X-Gitea-Event: $event" -H "X-Gitea-Delivery: $delivery" -H "X-Gitea-Signature: $sum" ;;
gitlab) set -- -H "X-Gitlab-Event: $event" -H "X-Gitlab-Event-UUID: $delivery" -H "X-Gitlab-Token: $secret" ;;
*)
	echo "deliver.sh: $forge: expected github, gitlab or gitea" >&2
	exit 64
	;;
esac
printf %s "$payload" | curl --silent --show-error --fail-with-body -H 'Content-Type: application/json' "$@" --data-binary @- "$url"
echo
