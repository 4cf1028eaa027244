#!/usr/bin/env bash
# Ray 2.60: one local ray.init() locks every cluster that is started on the machine later.
#
# Guess before looking: a cluster that `ray start --head` made on this machine is reached by
# ray.init(address=...) of the same user, whatever ran there before.
# Seen: on a machine where Ray never ran it is. But a local ray.init() leaves ~/.ray/auth_token, and
# from then on `ray start` asks for that token, while ray.init(address=...) of the same user, who has
# the file, does not show it: "Failed to connect to Ray cluster". With RAY_AUTH_MODE=token it does.
# Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
head=""
stop() { if [ -n "$head" ]; then kill -KILL -- "-$head" 2>/dev/null || true; wait "$head" 2>/dev/null || true; head=""; fi; }
trap 'stop; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_ADDRESS

cat > "$folder/reach.py" <<'PYTHON'
import sys

import ray

try:
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
except ConnectionError as error:
    print("refused:", str(error).splitlines()[0])
else:
    print("reached")
PYTHON

reach() { # the variables to set; starts a cluster and connects to it
    set -m
    "$folder/venv/bin/ray" start --head --block --num-cpus 1 --port 6397 \
        --include-dashboard false > "$folder/head.log" 2>&1 &
    head=$!
    set +m
    until grep -q "Ray runtime started" "$folder/head.log"; do sleep 1; kill -0 "$head" || return 1; done
    env "$@" "$folder/venv/bin/python" "$folder/reach.py" 127.0.0.1:6397 2> /dev/null
    stop
}

before="$(reach X=1)"
"$folder/venv/bin/python" -c 'import ray; ray.init("local", num_cpus=1, logging_level="ERROR")' 2> /dev/null
after="$(reach X=1)"
shown="$(reach RAY_AUTH_MODE=token)"
echo "before a local ray.init(): $before"
echo "after it: $after"
echo "after it, with RAY_AUTH_MODE=token: $shown"
test -s "$folder/.ray/auth_token"
test "$before" = reached
[[ "$after" == refused:* ]]
test "$shown" = reached
