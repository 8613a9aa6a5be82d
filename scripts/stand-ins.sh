# What the tests of scripts have in common: each case gets an empty PATH folder with the few tools that the script uses, and
# stand-ins for all other programs. These write the words that they were called with to $case_dir/calls.
#
# To be sourced. Needs `tools`, the real programs of each case; `more`, assignments that stand-ins begin with, may change by case.
# shellcheck shell=sh disable=SC2034,SC2154 # what is set here is used there, and the other way round

top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
failures=0
shell=$(command -v sh)
more=

# empty_case NAME: a system with nothing but the tools, in which we are root.
empty_case() {
    case_name=$1
    case_dir=$top/$(printf '%s' "$1" | tr -c 'a-z0-9' '-')
    bin=$case_dir/bin
    mkdir -p "$bin"
    : >"$case_dir/calls"
    for tool in $tools; do
        ln -s "$(command -v "$tool")" "$bin/$tool"
    done
}

# program NAME BODY: puts a stand-in on the PATH of the case.
program() {
    printf '#!%s\nbin=%s calls=%s %s\n%s\n' "$shell" "$bin" "$case_dir/calls" "$more" "$2" >"$bin/$1"
    chmod 755 "$bin/$1"
}

fail() {
    failures=$((failures + 1))
    printf 'FAILED %s: %s\n' "$case_name" "$1" >&2
    sed 's/^/    /' "$case_dir/err" "$case_dir/calls" >&2
}

expect() { # expect STATUS OUTPUT
    [ "$status" -eq "$1" ] || fail "status $status instead of $1"
    [ "$out" = "$2" ] || fail "printed '$out' instead of '$2'"
}
expect_call() { grep -qF -- "$1" "$case_dir/calls" || fail "no call '$1'"; }
expect_no_call() { ! grep -qF -- "$1" "$case_dir/calls" || fail "call '$1'"; }
expect_said() { grep -qF -- "$1" "$case_dir/err" || fail "did not say '$1'"; }
expect_not_said() { ! grep -qF -- "$1" "$case_dir/err" || fail "said '$1'"; }

# finish SCRIPT: says how it went.
finish() {
    if [ "$failures" -ne 0 ]; then
        echo "$1: $failures failures" >&2
        exit 1
    fi
    echo "$1: all cases pass"
}
