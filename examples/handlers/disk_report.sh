#!/bin/sh
# A handler of kind `command`: JSON out on standard output, what went wrong on standard error.
#
# The task is on standard input as JSON; this one needs nothing of it but what is in the environment.
set -eu

if [ ! -d "$REPORT_PATH" ]; then
    echo "no folder $REPORT_PATH" >&2
    exit 65 # another attempt would fail as well
fi
df -Pk "$REPORT_PATH" | awk -v attempt="$WAOOAW_ATTEMPT" 'NR == 2 {
    printf "{\"used_kib\": %d, \"free_kib\": %d, \"attempt\": %d}\n", $3, $4, attempt
}'
