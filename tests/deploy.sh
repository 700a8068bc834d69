#!/bin/sh
# What is in deploy/, and `make install` and `uninstall`, with the tools that are there: tests/deploy.sh BINARY
set -eu
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT

die() {
    echo "FAILED: $*" >&2
    exit 1
}
# Runs a check if its tool is there.
with() {
    command -v "$1" >/dev/null || {
        echo "SKIPPED: $1 is not installed"
        return 0
    }
    echo "$*"
    "$@" >"$room/out" 2>&1 || {
        cat "$room/out"
        die "$*"
    }
}

echo 'install and uninstall'
for prefix in /usr/local /opt/a-b; do
    tree=$room/tree
    mkdir -p "$tree/etc/ai-free-swap"
    echo mine >"$tree/etc/ai-free-swap/config.yaml"
    for _ in first again; do
        make -s install BIN="$binary" DESTDIR="$tree" PREFIX=$prefix
    done
    unit=$tree$prefix/lib/systemd/system/ai-free-swap.service
    grep -q "^ExecStart=$prefix/bin/ai-free-swap " "$unit" || die 'the unit starts another path'
    [ "$(stat -c %a "$tree$prefix/bin/ai-free-swap" "$unit" | tr '\n' ' ')" = '755 644 ' ] || die 'file modes'
    "$tree$prefix/bin/ai-free-swap" --version >/dev/null
    for file in share/man/man1/ai-free-swap.1 share/doc/ai-free-swap/config.yaml.example share/doc/ai-free-swap/docs/api.md; do
        [ -s "$tree$prefix/$file" ] || die "$file is not installed"
    done
    make -s uninstall DESTDIR="$tree" PREFIX=$prefix
    left=$(find "$tree" -type f -o -type d -name ai-free-swap -not -path "$tree/etc/*")
    [ "$left" = "$tree/etc/ai-free-swap/config.yaml" ] || die "uninstall leaves: $left"
    [ "$(cat "$left")" = mine ] || die 'the config was changed'
    rm -r "$tree"
done

echo 'systemd'
sed "s|/usr/local/bin/ai-free-swap|$binary|" deploy/systemd/ai-free-swap.service >"$room/ai-free-swap.service"
with systemd-analyze verify "$room/ai-free-swap.service"
# Exposure in tenths: more than 1.5 of 10 is more than the unit had when it was written.
with systemd-analyze security --offline=yes --no-pager --threshold=15 deploy/systemd/ai-free-swap.service
mkdir "$room/ai-free-swap.service.d"
sed "s|/usr/local/bin/ai-free-swap|$binary|" deploy/systemd/credential.conf >"$room/ai-free-swap.service.d/credential.conf"
with systemd-analyze verify "$room/ai-free-swap.service"

echo 'OpenWrt'
sh -n deploy/openwrt/ai-free-swap.init
with shellcheck -s dash deploy/openwrt/ai-free-swap.init tests/deploy.sh
# What procd would be told, with paths of this test.
# shellcheck disable=SC2016
sed "s|^PROG=.*|PROG=$binary|; s|^CONFIG=.*|CONFIG=$room/config.yaml|; s|^STATE=.*|STATE=$room/state|" \
    deploy/openwrt/ai-free-swap.init >"$room/init"
printf 'providers: [{priority: 1, backends: [{provider: demo, model: demo}]}]\n' >"$room/config.yaml"
said=$(
    for name in procd_open_instance procd_set_param procd_close_instance procd_send_signal chown; do
        eval "$name() { echo \"$name \$*\"; }"
    done
    # shellcheck source=/dev/null
    . "$room/init"
    start_service
    reload_service
    check
)
for wanted in "procd_set_param command $binary --config $room/config.yaml" 'procd_set_param user nobody' \
    "procd_send_signal ai-free-swap * HUP" 'demo (demo)'; do
    case $said in
    *"$wanted"*) ;;
    *) die "the script does not say '$wanted' but: $said" ;;
    esac
done

echo 'manual page'
with mandoc -T lint -W warning docs/ai-free-swap.1

echo 'balancers'
with haproxy -c -q -f deploy/haproxy.cfg
printf 'pid %s/pid; error_log stderr; events {}\nhttp {\naccess_log off; include %s;\n}\n' "$room" \
    "$PWD/deploy/nginx.conf" >"$room/nginx.conf"
with nginx -t -q -c "$room/nginx.conf"

echo 'clouds'
with python3 -c 'import json; json.load(open("deploy/railway.json"))'
if python3 -c 'import tomllib' 2>/dev/null; then
    with python3 -c 'import tomllib; tomllib.load(open("deploy/fly.toml", "rb"))'
fi
SERVER_API_KEY=k GEMINI_API_KEY=k PORT=8000 "$binary" check --offline --config deploy/config.yaml.cloud >/dev/null
if "$binary" check --offline --config deploy/config.yaml.cloud >"$room/out" 2>&1; then
    die 'the cloud configuration starts without keys'
fi

echo 'deploy: all well'
