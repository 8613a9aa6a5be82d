# A service whose effects last: what is done and undone is a line of a file outside Redis.
#
#   sh ledger.sh FILE < invocation
#
# The argument `plan` says "ORDER STEP SIGN MODE TIMES": how the first TIMES attempts go (all where it is below 0); later ones
# go well. Everything is builtin but for sleeping, since a test starts hundreds of these.

ledger=$1
IFS= read -r json
plan=${json#*'"plan":"'}
plan=${plan%%'"'*}
task=${json#*'"task_id":"'}
task=${task%%'"'*}
attempt=${json#*'"attempt":'}
attempt=${attempt%%,*}
# shellcheck disable=SC2086
set -- $plan
order=$1 step=$2 sign=$3 mode=$4 times=$5

act() {
    echo "$sign $order $step $task $attempt" >>"$ledger"
}

if [ "$times" -ge 0 ] && [ "$attempt" -gt "$times" ]; then
    mode=well
fi
case $mode in
    fail) exit 1 ;;
    refuse) exit 65 ;;
    hang) exec sleep 60 ;;
    act_and_hang) act && exec sleep 60 ;;
    slowly) sleep 0.1 && act && sleep 0.1 ;;
    *) act ;;
esac
echo "{\"entry\":\"$sign$step\"}"
