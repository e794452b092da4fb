#!/usr/bin/env bash
# An example: load once from the tap into target-postgres, with settings from the environment, and
# keep the state in the working directory. Exits with 0 if both have succeeded.
set -o nounset -o pipefail

touch states.jsonl
echo >> states.jsonl  # a kill may have left a line without its end
jq --compact-output --raw-input 'fromjson?' states.jsonl | tail -n 1 > state.json

messages=$(mktemp --dry-run)
mkfifo --mode=600 "$messages"
trap 'rm -f "$messages"' EXIT
# In any other time zone, it would shift all times.
PGTZ=UTC target-postgres --config=ENV < "$messages" >> states.jsonl &
target=$!
tap-sendgrid-contacts --config=ENV --state state.json > "$messages" &
tap=$!

# The tap alone: it ends with complete lines and a last STATE, which the target then returns.
trap 'kill -TERM "$tap"' TERM INT
wait "$tap"  # returns early on a signal
wait "$tap"
code=$?
wait "$target" || code=$?
exit "$code"
