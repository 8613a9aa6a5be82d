#!/bin/sh
# Holds a running replica against its OpenAPI document with schemathesis: requests made from the
# document, good ones and bad ones, must meet no server error, no status, header or body that the
# document does not tell, and no way around the token.
#
# usage: api-test.sh WAOOAW [EXAMPLES]     the program, and how many requests of each kind (25)
#
# It has a Redis and a replica of its own, on ports and in a folder of their own, and ends both.
# schemathesis comes from PyPI into a virtual environment beside the program, once. With
# API_TEST_OPTIONAL=1 a machine without Python, or without a way to PyPI, is no failure.
#
# What the document can not tell is not held against it: a cursor is a text that only a page gives,
# a graph must not be a ring. So whether each good request is taken and each bad one refused is not
# asked here; the tests of schemas and readers ask it, for all that a schema can tell.
set -eu

version=4.32.5
waooaw=${1:?usage: api-test.sh WAOOAW [EXAMPLES]}
examples=${2:-25}
token=api-test-0123456789abcdef0123456789abcdef
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
processes=

clean_up() {
    for process in $processes; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# leave_out WHY: ends well where the check is optional, badly where it was asked for.
leave_out() {
    echo "api-test: $1" >&2
    if [ "${API_TEST_OPTIONAL:-}" = 1 ]; then
        echo "api-test: left out" >&2
        exit 0
    fi
    exit 1
}

command -v python3 >/dev/null 2>&1 || leave_out "there is no python3"
tools=$(cd "$(dirname "$waooaw")" && pwd)/api-test-$version
if [ ! -x "$tools/bin/schemathesis" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools" >"$folder/venv.log" 2>&1 || leave_out "python3 has no venv; on Debian: apt-get install python3-venv"
    timeout 300 "$tools/bin/pip" install -q --disable-pip-version-check "schemathesis==$version" >"$folder/pip.log" 2>&1 || {
        tail -n 3 "$folder/pip.log" >&2
        rm -rf "$tools"
        leave_out "schemathesis can not be had from PyPI"
    }
fi

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

redis_port=$(port)
http_port=$(port)
redis=$(sh "$here/get-redis.sh")
"$redis" --port "$redis_port" --bind 127.0.0.1 --save '' --dir "$folder" --logfile "$folder/redis.log" &
processes="$! $processes"
mkdir "$folder/config"
cat >"$folder/config/default.toml" <<TOML
handlers_builtin = true
[redis]
url = "redis://127.0.0.1:$redis_port"
allow_no_persistence = true
[http]
addr = "127.0.0.1:$http_port"
[[http.tokens]]
token = "$token"
role = "admin"
TOML
waooaw=$(cd "$(dirname "$waooaw")" && pwd)/$(basename "$waooaw")
(cd "$folder" && exec "$waooaw" serve) >"$folder/replica.log" 2>&1 &
processes="$! $processes"

tries=0
until python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$http_port/readyz')" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        echo "api-test: the replica does not get ready" >&2
        cat "$folder/replica.log" >&2
        exit 1
    fi
    sleep 0.2
done

checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance
checks=$checks,response_schema_conformance,unsupported_method,ignored_auth
code=0
(cd "$folder" && timeout 600 "$tools/bin/schemathesis" run "http://127.0.0.1:$http_port/openapi.json" \
    --url "http://127.0.0.1:$http_port" -H "Authorization: Bearer $token" --checks "$checks" \
    --max-examples "$examples" --seed 1 --request-timeout 20 --no-color) >"$folder/said.log" 2>&1 || code=$?
if [ "$code" -ne 0 ] || grep -q panicked "$folder/replica.log"; then
    cat "$folder/said.log"
    grep panicked "$folder/replica.log" || true
    echo "api-test: the replica does not do what its document says" >&2
    exit 1
fi
sed -n '/^=* SUMMARY/,$p' "$folder/said.log"
