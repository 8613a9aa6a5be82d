#!/bin/sh
# Makes the passwords and tokens of an installation, each at random, in the folder `secrets` beside this file or in the one
# that is named:
#
#   sh deploy/make-secrets.sh [folder]
#
# What is there already stays, so it may run again; to rotate one, delete its file first (see docs/operations.md). Nothing is
# printed but names. The folder is for its owner only. The files in it can be read by every user, because containers run as
# users of their own that must read what is mounted from here; on this machine the folder keeps others out.
set -eu

folder=${1:-$(cd "$(dirname "$0")" && pwd)/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

# random: 40 letters and digits, which need no escaping in a URL, a header or a shell.
random() {
    LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom | dd bs=1 count=40 2>/dev/null
}

# keep NAME CONTENT: writes a file that is not there yet, whole or not at all.
keep() {
    [ -e "$folder/$1" ] && return
    printf '%s\n' "$2" >"$folder/.$1.new"
    chmod 444 "$folder/.$1.new"
    mv "$folder/.$1.new" "$folder/$1"
    printf '%s\n' "$folder/$1"
}

for name in admin-token trigger-token read-token grafana-password replica-password operator-password agent-password; do
    keep "$name" "$(random)"
done

# Made of the passwords, and anew each time, so that they agree. The rights are those of docs/security.md; `default` may only
# be asked whether the server lives. A replica loads the functions itself here.
data='+@stream +@hash +@list +@set +@sortedset +@string -@dangerous +del +unlink +exists +expire +pexpire +rename +type +time'
rm -f "$folder/redis-users.acl" "$folder/redis-url.toml" "$folder/kubernetes.env"
keep redis-users.acl "user default on nopass -@all +ping
user waooaw-replica on >$(cat "$folder/replica-password") ~waooaw:* resetchannels -@all $data +fcall +fcall_ro +ping +hello +info +config|get +function|load
user waooaw-operator on >$(cat "$folder/operator-password") ~waooaw:* resetchannels -@all $data +scan +fcall +fcall_ro +ping +hello +info +config|get +function|list +latency|latest +slowlog|get +memory|usage +acl|whoami
user waooaw-agent on >$(cat "$folder/agent-password") resetchannels -@all %W~waooaw:triggers %W~waooaw:commands +xadd +ping +hello (resetchannels -@all %RW~waooaw:{*}:events %RW~waooaw:{*}:agent:* +xgroup|create +xreadgroup +xack +xread +xrange +xrevrange +xlen +xpending +xclaim +xautoclaim +xinfo|stream +xinfo|groups +xinfo|consumers)"
keep redis-url.toml "[redis]
url = \"redis://waooaw-replica:$(cat "$folder/replica-password")@redis:6379\""
keep kubernetes.env "redis-url=redis://waooaw-replica:$(cat "$folder/replica-password")@redis:6379
http-tokens=[{\"token\":\"$(cat "$folder/admin-token")\",\"role\":\"admin\"},{\"token\":\"$(cat "$folder/trigger-token")\",\"role\":\"trigger\"},{\"token\":\"$(cat "$folder/read-token")\",\"role\":\"read\"}]
read-token=$(cat "$folder/read-token")"
