#!/bin/sh
# Tests get-deploy-tools.sh against stand-ins for package managers and programs (see stand-ins.sh), in a folder of their own:
# nothing is downloaded, and nothing outside that folder is written.
#
# shellcheck disable=SC2016 # the stand-ins expand their own variables
set -eu

script=$(cd "$(dirname "$0")" && pwd)/get-deploy-tools.sh
tools='cat chmod cmp cp dirname env grep ln mkdir mv rm sh tail'
# shellcheck source=scripts/stand-ins.sh
. "${script%/*}/stand-ins.sh"

# new_case NAME: an empty system, in which we are root.
new_case() {
    empty_case "$1"
    folder=$case_dir/target/deploy-tools
    program id 'echo 0'
}

run() {
    status=0
    out=$(PATH=$bin CARGO_TARGET_DIR=$case_dir/target "$shell" "$script" 2>"$case_dir/err") || status=$?
}

# again: forgets the calls so far and runs it once more.
again() {
    : >"$case_dir/calls"
    run
    expect 0 "$folder"
}

expect_file() { [ -e "$folder/$1" ] || fail "no $1"; }
expect_no_file() { [ ! -e "$folder/$1" ] || fail "$1 is there"; }

# debian LISTS: apt-get downloads once its lists are there ('1' or '0').
debian() {
    [ "$1" = 0 ] || : >"$case_dir/lists"
    more="lists=$case_dir/lists"
    program apt-get 'printf "%s\n" "apt-get $*" >>"$calls"
case $1 in
    update) : >"$lists" ;;
    download) [ -e "$lists" ] || { echo "E: no candidate" >&2; exit 100; }; : >prometheus_2.42_amd64.deb ;;
    *) exit 1 ;;
esac'
    program dpkg-deb 'printf "%s\n" "dpkg-deb $*" >>"$calls"
mkdir -p usr/bin && for one in promtool prometheus; do printf "#!/bin/sh\n" >usr/bin/$one; chmod 755 usr/bin/$one; done'
    more=
}

# python VENV PIP: whether each of the two works ('true' or 'false').
python() {
    program python3 'printf "%s\n" "python3 $*" >>"$calls"
'"$1"' || { echo "no module ensurepip" >&2; exit 1; }
mkdir -p "$3/bin"
printf "#!/bin/sh\nprintf \"pip %%s\\\\n\" \"\$*\" >>%s\n%s\n" "$calls" "'"$2"'" >"$3/bin/pip"
chmod 755 "$3/bin/pip"'
}

npm() { # npm WORKS
    program npm 'printf "%s\n" "npm $*" >>"$calls"
[ -f package-lock.json ] || exit 1
'"$1"' || { echo "npm: network" >&2; exit 1; }
mkdir -p node_modules'
}

new_case 'where nothing is there it says what is left out, and does not fail'
run
expect 0 "$folder"
expect_said 'no promtool and no prometheus'
expect_said 'no kustomize and no kubectl'
expect_said 'no python3'
expect_said 'no npm'
expect_file bin

new_case 'what is installed is linked to, and nothing is downloaded'
debian 1
for one in promtool prometheus; do program "$one" 'exit 0'; done
program kustomize 'printf "%s\n" "kustomize $*" >>"$calls"'
program kubectl 'printf "%s\n" "kubectl $*" >>"$calls"'
run
expect 0 "$folder"
expect_no_call apt-get
expect_file bin/promtool
expect_file bin/prometheus
PATH=$bin "$folder/bin/kustomize" overlay
expect_call 'kustomize build overlay'
rm "$bin/kustomize"
again
PATH=$bin "$folder/bin/kustomize" overlay
expect_call 'kubectl kustomize overlay'
rm "$bin/kubectl"
again
expect_no_file bin/kustomize

new_case 'debian gets the package unpacked and never installed'
debian 1
run
expect 0 "$folder"
expect_call 'apt-get download prometheus'
expect_no_call 'apt-get install'
expect_no_call 'apt-get update'
expect_not_said 'no promtool'
expect_file bin/promtool
expect_file bin/prometheus
expect_no_file deb
again
expect_no_call apt-get

new_case 'lists that a fresh container lacks are fetched'
debian 0
run
expect 0 "$folder"
expect_call 'apt-get update'
expect_file bin/promtool

new_case 'a normal user fetches lists through sudo and is never asked'
debian 0
program id 'echo 1000'
program sudo 'printf "%s\n" "sudo $*" >>"$calls"; shift; exec "$@"'
run
expect 0 "$folder"
expect_call 'sudo -n apt-get update'
expect_file bin/promtool

new_case 'a normal user without sudo and without lists does without'
debian 0
program id 'echo 1000'
run
expect 0 "$folder"
expect_no_call 'apt-get update'
expect_said 'no candidate'
expect_said 'no promtool and no prometheus'
expect_no_file bin/promtool

new_case 'one of the two programs is not enough'
debian 1
program promtool 'exit 0'
run
expect 0 "$folder"
expect_call 'apt-get download prometheus'
expect_file bin/prometheus

new_case 'python packages are those of the pins, and only a change of these gets them again'
python true 'exit 0'
run
expect 0 "$folder"
expect_call "python3 -m venv $folder/venv"
expect_call 'deploy-tools/requirements.txt'
cmp -s "${script%/*}/deploy-tools/requirements.txt" "$folder/venv/pins" || fail 'the mark is not what was installed'
again
expect_no_call python3
echo 'something==1' >>"$folder/venv/pins"
again
expect_call python3

new_case 'a python without venv leaves nothing half done'
python false 'exit 0'
run
expect 0 "$folder"
expect_said 'no module ensurepip'
expect_said 'apt-get install python3-venv'
expect_no_file venv

new_case 'packages that can not be had leave nothing half done'
python true 'exit 1'
run
expect 0 "$folder"
expect_said 'could not make a Python environment'
expect_no_file venv

new_case 'npm packages are those of the lock, scripts of theirs are not run'
npm true
run
expect 0 "$folder"
expect_call 'npm ci --silent --ignore-scripts'
expect_file node/custom-resources.mjs
again
expect_no_call npm
rm "$folder/node/pins"
again
expect_call npm

new_case 'npm without a network leaves nothing half done'
npm false
run
expect 0 "$folder"
expect_said 'npm could not install'
expect_no_file node

new_case 'where the folder can not be made it fails'
: >"$case_dir/target"
run
[ "$status" -ne 0 ] || fail 'it did not fail'
expect_no_call apt-get

finish get-deploy-tools.sh
