#!/bin/sh
# Prints the path of a Redis (7 or newer) or Valkey server program, and installs one first where
# none is found. `make demo` and the tests start servers of their own from it, each on its own port
# and folder, so no service is wanted: where a package would start one, this script prevents it.
#
# How: the package manager of the system, as root or through sudo. Debian's packages start their
# service when they are installed, unless /usr/sbin/policy-rc.d forbids it, and enable it for the
# next boot. So one that forbids it is put there for the length of the installation (an existing
# one is respected and never touched), and the unit is disabled afterwards, but only where this
# script installed the package: a Redis that somebody runs already stays as it is.
#
# Only the path goes to stdout; whatever else there is to say goes to stderr.
# GET_REDIS_ROOT is for tests: a folder that stands for / where policy-rc.d is concerned.
set -eu

major_min=7
policy=${GET_REDIS_ROOT:-}/usr/sbin/policy-rc.d
policy_mark='written by get-redis.sh, safe to delete'
is_policy_ours=no
installed_by_us=

say() { printf '%s\n' "$*" >&2; }

# give_up WHY: says what a person can do instead.
give_up() {
    say "get-redis: $1"
    say "Put a redis-server or valkey-server of version $major_min or newer on PATH and try again. Ways to get one:"
    say "  packages of the Redis project:  https://redis.io/docs/latest/operate/oss_and_stack/install/"
    say "  from source, without root:      make BUILD_TLS=no in an unpacked release, then add its src folder to PATH"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        give_up "installing a package needs root, and there is no sudo"
    fi
}

# major PROGRAM: 7 from "Redis server v=7.0.15 sha=..." or "Valkey server v=8.1.1 sha=...".
major() {
    "$1" --version 2>/dev/null | sed -n 's/.* v=\([0-9][0-9]*\)\..*/\1/p' | head -n 1
}

# is_new_enough MAJOR: an empty or odd version is not.
is_new_enough() {
    case $1 in
        '' | *[!0-9]*) return 1 ;;
        *) [ "$1" -ge "$major_min" ] ;;
    esac
}

# find_server: prints the path of the first program that will do.
find_server() {
    for program in redis-server valkey-server; do
        path=$(command -v "$program") || continue
        if is_new_enough "$(major "$path")"; then
            printf '%s\n' "$path"
            return 0
        fi
    done
    return 1
}

clean_up() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    if [ "$is_policy_ours" = yes ]; then
        as_root rm -f "$policy" || say "get-redis: could not remove $policy; please delete it, or packages will not start their services"
    fi
    if [ -n "$installed_by_us" ] && apt_has "$installed_by_us" && command -v systemctl >/dev/null 2>&1; then
        as_root systemctl disable "$installed_by_us.service" >&2 ||
            say "get-redis: could not disable $installed_by_us.service; it may start at the next boot"
        # Where a policy-rc.d was there before and allows starts, the service may be up by now.
        if [ -d /run/systemd/system ]; then
            as_root systemctl stop "$installed_by_us.service" >&2 || true
        fi
    fi
    exit "$status"
}

# A killed run (SIGKILL, power) leaves its file behind; the mark lets the next run take it over.
# `set -C` makes the shell refuse to write over a file that appeared in between.
forbid_service_starts() {
    if grep -qs "$policy_mark" "$policy"; then
        is_policy_ours=yes
    elif [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
        is_policy_ours=yes
        # shellcheck disable=SC2016 # the inner shell expands its own arguments
        as_root sh -c 'set -C && printf "#!/bin/sh\n# %s\nexit 101\n" "$2" >"$1" && chmod 755 "$1"' sh "$policy" "$policy_mark" || {
            is_policy_ours=no
            give_up "could not write $policy, without which the package would start a service"
        }
    fi
}

apt_candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9][0-9]*\)\..*/\2/p'
}

apt_has() {
    dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q ' installed$'
}

install_with_apt() {
    as_root apt-get update >&2 || say "get-redis: apt-get update failed; going on with the package lists that are there"
    for package in redis-server valkey-server; do
        is_new_enough "$(apt_candidate "$package")" || continue
        # An upgrade would stop somebody's server, and the policy would keep it from coming back.
        if apt_has "$package"; then
            give_up "$package is installed, but too old or not on PATH; upgrading it is left to you"
        fi
        trap clean_up EXIT
        trap 'exit 129' HUP
        trap 'exit 130' INT
        trap 'exit 143' TERM
        forbid_service_starts
        installed_by_us=$package
        # RUNLEVEL=1 is a second lock: invoke-rc.d starts nothing in single-user mode.
        as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y --no-install-recommends "$package" >&2 || give_up "apt-get could not install $package"
        return
    done
    give_up "this release packages no Redis or Valkey of version $major_min or newer"
}

# The other families start no service on installation. Which of the two servers they carry changes
# from release to release, so the first that is there and new enough is taken.
install_with_dnf() {
    for package in valkey redis; do
        candidate=$(dnf -q repoquery --latest-limit=1 --qf '%{version}\n' "$package" 2>/dev/null | head -n 1)
        is_new_enough "${candidate%%.*}" || continue
        as_root dnf install -y --setopt=install_weak_deps=False "$package" >&2 || give_up "dnf could not install $package"
        return
    done
    give_up "dnf offers no Redis or Valkey of version $major_min or newer (on RHEL 9: dnf module enable redis:7)"
}

install_with_apk() {
    as_root apk add --no-cache redis >&2 || as_root apk add --no-cache valkey >&2 || give_up "apk could not install redis or valkey"
}

# A container image of Arch comes without package lists; only then are they fetched, because on a
# used system lists newer than the installed packages invite a partial upgrade.
install_with_pacman() {
    pacman -Si valkey >/dev/null 2>&1 || pacman -Si redis >/dev/null 2>&1 || as_root pacman -Sy --noconfirm >&2 || true
    as_root pacman -S --needed --noconfirm valkey >&2 || as_root pacman -S --needed --noconfirm redis >&2 ||
        give_up "pacman could not install valkey or redis"
}

# Homebrew refuses to run as root and needs no sudo.
install_with_brew() {
    brew install redis >&2 || give_up "brew could not install redis"
}

if find_server; then
    exit 0
fi

say "get-redis: no redis-server or valkey-server of version $major_min or newer on PATH; installing one"
if command -v apt-get >/dev/null 2>&1; then
    install_with_apt
elif command -v dnf >/dev/null 2>&1; then
    install_with_dnf
elif command -v apk >/dev/null 2>&1; then
    install_with_apk
elif command -v pacman >/dev/null 2>&1; then
    install_with_pacman
elif command -v brew >/dev/null 2>&1; then
    install_with_brew
else
    give_up "none of apt-get, dnf, apk, pacman and brew is here"
fi

find_server || give_up "the package was installed, but no server of version $major_min or newer is on PATH"
