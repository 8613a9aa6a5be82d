#!/bin/sh
# Tests get-redis.sh against stand-ins for servers and package managers (see stand-ins.sh), in a folder of their own: nothing is
# installed, and nothing outside that folder is read or written. A manager "installs" by adding a server to PATH.
#
# shellcheck disable=SC2016 # the stand-ins expand their own variables
set -eu

script=$(cd "$(dirname "$0")" && pwd)/get-redis.sh
tools='cat chmod env grep head mkdir rm sed sh'
# shellcheck source=scripts/stand-ins.sh
. "${script%/*}/stand-ins.sh"

# new_case NAME: an empty system, in which we are root.
new_case() {
    empty_case "$1"
    policy=$case_dir/root/usr/sbin/policy-rc.d
    mkdir -p "${policy%/*}"
    more="policy=$policy"
    program id 'echo 0'
}

server() { program "$1" "echo \"$2 server v=$3 sha=00000000:0 malloc=libc bits=64\""; }

# manager NAME SERVER EXTRA: logs its calls; `install`, `add` and `-S` put SERVER on PATH.
manager() {
    program "$1" "
printf '%s\n' \"$1 \$*\" >>\"\$calls\"
$3
case \" \$* \" in
    *' install '* | *' add '* | *' -S '*)
        printf '#!%s\necho \"Redis server v=7.2.4 sha=0\"\n' '$shell' >\"\$bin/$2\"
        chmod 755 \"\$bin/$2\" ;;
esac"
}

debian() {
    manager apt-get "$1" 'case $1 in install)
    printf "runlevel %s\n" "${RUNLEVEL:-}" >>"$calls"
    if [ -x "$policy" ] && ! "$policy"; then echo "service not started" >>"$calls"; else echo "service started" >>"$calls"; fi ;;
esac'
    program apt-cache "[ \"\$2\" = $1 ] && printf '$1:\n  Installed: (none)\n  Candidate: $2\n'; exit 0"
    program dpkg-query 'if grep -q "^apt-get install" "$calls"; then echo "install ok installed"; else exit 1; fi'
    program systemctl 'printf "%s\n" "systemctl $*" >>"$calls"'
}

run() {
    status=0
    out=$(PATH=$bin GET_REDIS_ROOT=$case_dir/root "$shell" "$script" 2>"$case_dir/err") || status=$?
}

new_case 'a server that is there is used and nothing is installed'
server redis-server Redis 7.0.15
debian redis-server 5:7.0.15-1
run
expect 0 "$bin/redis-server"
expect_no_call apt-get

new_case 'an old redis gives way to a valkey'
server redis-server Redis 6.0.16
server valkey-server Valkey 8.1.1
run
expect 0 "$bin/valkey-server"

new_case 'two digits are newer than one'
server redis-server Redis 10.0.1
run
expect 0 "$bin/redis-server"

new_case 'debian installs without starting or enabling the service'
debian redis-server 5:7.0.15-1~deb12u10
run
expect 0 "$bin/redis-server"
expect_call 'apt-get install -y --no-install-recommends redis-server'
expect_call 'service not started'
expect_call 'runlevel 1'
expect_call 'systemctl disable redis-server.service'
[ ! -e "$policy" ] || fail 'policy-rc.d was left behind'

new_case 'a policy of somebody else is respected and kept'
debian redis-server 5:7.0.15-1
printf '#!%s\nexit 101\n' "$shell" >"$policy"
chmod 755 "$policy"
run
expect 0 "$bin/redis-server"
[ "$(sed -n 2p "$policy")" = 'exit 101' ] || fail 'policy-rc.d was changed'

new_case 'what a killed run left behind is taken over'
debian redis-server 5:7.0.15-1
printf '#!%s\n# written by get-redis.sh, safe to delete\nexit 101\n' "$shell" >"$policy"
chmod 755 "$policy"
run
expect 0 "$bin/redis-server"
expect_call 'service not started'
[ ! -e "$policy" ] || fail 'policy-rc.d was left behind'

new_case 'a failed installation cleans up'
debian redis-server 5:7.0.15-1
program apt-get 'printf "%s\n" "apt-get $*" >>"$calls"; [ "$1" = update ]'
program dpkg-query 'exit 1'
run
expect 1 ''
expect_no_call systemctl
[ ! -e "$policy" ] || fail 'policy-rc.d was left behind'

new_case 'a stop in the middle of the installation cleans up'
debian redis-server 5:7.0.15-1
program apt-get '[ "$1" = update ] || kill -TERM "$PPID"'
run
expect 143 ''
[ ! -e "$policy" ] || fail 'policy-rc.d was left behind'

new_case 'debian with an old redis takes valkey'
debian valkey-server 8.1.1+dfsg1-3
run
expect 0 "$bin/valkey-server"
expect_call 'systemctl disable valkey-server.service'

new_case 'a release with nothing new enough says what to do'
debian redis-server 5:6.0.16-1ubuntu1
run
expect 1 ''
expect_said 'from source, without root'
expect_no_call 'apt-get install'

new_case 'an installed package is not upgraded'
debian redis-server 5:7.0.15-1
server redis-server Redis 6.2.0
program dpkg-query 'echo "install ok installed"'
run
expect 1 ''
expect_said 'upgrading it is left to you'
expect_no_call 'apt-get install'
expect_no_call 'systemctl'

new_case 'a normal user goes through sudo'
debian redis-server 5:7.0.15-1
program id 'echo 1000'
program sudo 'printf "%s\n" "sudo $*" >>"$calls"; exec "$@"'
run
expect 0 "$bin/redis-server"
expect_call 'sudo apt-get update'
expect_call 'sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install'
expect_call 'sudo rm -f'

new_case 'a normal user without sudo is told so'
debian redis-server 5:7.0.15-1
program id 'echo 1000'
run
expect 1 ''
expect_said 'there is no sudo'

new_case 'fedora takes what is new enough'
manager dnf valkey-server 'case "$*" in *repoquery*valkey) echo 8.0.4 ;; *repoquery*redis) echo 6.2.7 ;; esac'
run
expect 0 "$bin/valkey-server"
expect_call 'dnf install -y --setopt=install_weak_deps=False valkey'

new_case 'red hat with an old redis says what to do'
manager dnf redis-server 'case "$*" in *repoquery*redis) echo 6.2.7 ;; esac'
run
expect 1 ''
expect_said 'dnf module enable redis:7'

new_case 'alpine'
manager apk redis-server ''
run
expect 0 "$bin/redis-server"
expect_call 'apk add --no-cache redis'

new_case 'arch does not refresh lists that are there'
manager pacman valkey-server ''
run
expect 0 "$bin/valkey-server"
expect_no_call 'pacman -Sy'

new_case 'homebrew needs no root'
program id 'echo 501'
manager brew redis-server ''
run
expect 0 "$bin/redis-server"
expect_call 'brew install redis'

new_case 'an unknown system is told what to do'
run
expect 1 ''
expect_said 'none of apt-get, dnf, apk, pacman and brew is here'

finish get-redis.sh
