#!/bin/bash
# setup.sh demo|test|bench: installs what is missing on Debian 12 or Ubuntu 24.04, and only that; see README.md.
# Safe to repeat. When nothing is missing it does nothing privileged and takes less than a second.
set -euo pipefail
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
profile=${1:-}
case $profile in
    demo | test | bench) ;;
    *)
        echo "usage: scripts/setup.sh demo|test|bench" >&2
        exit 2
        ;;
esac
tests=
[ "$profile" = demo ] || tests=yes # a bench needs what tests need
mkdir -p .cache
log=$PWD/.cache/setup.log
: >"$log"

step() { printf '==> %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
# timed WHAT COMMAND...: says WHAT, runs the command with its output in the log, and says how long it took.
timed() {
    local what=$1 began=$SECONDS
    shift
    printf '==> %s ... ' "$what"
    if "$@" >>"$log" 2>&1; then
        printf '%d s\n' $((SECONDS - began))
    else
        printf 'failed\n'
        return 1
    fi
}
has() { command -v "$1" >/dev/null; }

# What needs root goes through here.
if [ "$(id -u)" = 0 ]; then
    privileged() { "$@"; }
elif has sudo; then
    privileged() { sudo "$@"; }
else
    privileged() { return 126; }
fi
may_install() { has apt-get && { [ "$(id -u)" = 0 ] || has sudo; }; }

#---------------------------------------------------------------- Python
find_python() {
    local name
    for name in python3.12 python3.11 python3.13 python3 python3.14; do
        if has "$name" && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}
python=$(find_python) ||
    fail "Python 3.11 or newer is missing; VirtRigaud is written in it. Install it: apt-get install python3 (Debian 12 and Ubuntu 24.04 have it)."

#---------------------------------------------------------------- system packages
# need PACKAGE TEST...: adds the package to the missing ones unless the test succeeds. What is there is tested, not who
# put it there: a libvirt from elsewhere is as good.
missing=()
need() {
    local package=$1
    shift
    "$@" 2>/dev/null || missing+=("$package")
}
any_file() {
    local file
    for file in "$@"; do
        [ ! -e "$file" ] || return 0
    done
    return 1
}
docker_compose() { has docker-compose || docker compose version >/dev/null; }
need libvirt-daemon-system has libvirtd
need libvirt-daemon-driver-qemu any_file /usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so
need libvirt-daemon-config-network any_file /usr/share/libvirt/networks/default.xml
need libvirt-clients has virsh
need qemu-system-x86 has qemu-system-x86_64
need qemu-utils has qemu-img
need seabios any_file /usr/share/seabios/bios-256k.bin
need ovmf any_file /usr/share/OVMF/OVMF_CODE_4M.fd /usr/share/OVMF/OVMF_CODE.fd
need dnsmasq-base has dnsmasq
need iptables has iptables
if [ -n "$tests" ]; then
    need iproute2 has ip # for a libvirtd in a network namespace
    need docker.io has dockerd # for docker-compose.yml, with its images' base from debootstrap
    need docker-compose docker_compose
    need debootstrap has debootstrap
fi
if [ "$profile" = bench ]; then
    need virtinst has virt-install # what creates are compared with
fi
# libvirt-python comes as source.
need gcc has gcc
need libc6-dev any_file /usr/include/stdio.h
need pkg-config has pkg-config
need libvirt-dev any_file /usr/include/libvirt/libvirt.h
headers=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_paths()["include"], "Python.h"))')
need python3-dev any_file "$headers"
has uv || [ -x .cache/tools/bin/uv ] || need python3-venv "$python" -c 'import ensurepip, venv'

apt_lists_missing() { ! any_file /var/lib/apt/lists/*_Packages*; }

update_lists() {
    timed "package lists: apt-get update" privileged apt-get update ||
        fail "apt-get update failed; the missing packages come from there. Its output is in $log."
}

install_packages() {
    # Nothing that is there is upgraded or restarted: no-upgrade, and needrestart (Ubuntu) only lists.
    privileged env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l NEEDRESTART_SUSPEND=1 \
        apt-get install -y --no-install-recommends --no-upgrade -o Dpkg::Options::=--force-confold "$@"
}

if [ ${#missing[@]} -gt 0 ]; then
    has apt-get ||
        fail "these are missing, and only Debian 12 and Ubuntu 24.04 are set up automatically (by apt-get): ${missing[*]}"
    may_install ||
        fail "these system packages are missing, and installing them takes root or sudo: ${missing[*]}. Have an administrator run: apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    if apt_lists_missing; then update_lists; fi
    if ! timed "system packages: ${missing[*]} (missing)" install_packages "${missing[@]}"; then
        update_lists # lists that are too old name files that are gone
        timed "system packages, once more" install_packages "${missing[@]}" ||
            fail "apt-get could not install ${missing[*]}; its output is in $log. By hand: apt-get install --no-install-recommends ${missing[*]}"
    fi
    # Debian leaves libvirt's own NAT network inactive. A libvirt that was here before is never touched; this one is new.
    if [[ " ${missing[*]} " == *" libvirt-daemon-system "* ]] && [ -d /run/systemd/system ]; then
        timed "libvirt, just installed: starting its network default" \
            privileged sh -c 'virsh -c qemu:///system net-info default | grep -q "Active: *yes" ||
                virsh -c qemu:///system net-start default && virsh -c qemu:///system net-autostart default' ||
            step "libvirt's network default could not be started; see $log"
    fi
fi

if ! has kubectl; then
    # Debian has it as kubernetes-client, Ubuntu 24.04 has not. It is a convenience: vrtg does the same.
    candidate=$(apt-cache policy kubernetes-client 2>/dev/null | sed -n 's/^ *Candidate: //p')
    if [ -n "$tests" ] && [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && may_install &&
        timed "system packages: kubernetes-client (kubectl)" install_packages kubernetes-client; then
        :
    else
        step "kubectl is not installed; vrtg serves in its place"
    fi
fi

if [ -n "$tests" ] && ! has go; then
    # Debian 12's is too old to build what they need.
    step "go is not installed; tests against a simulated vCenter, on a real Kubernetes API and of docker-compose.yml are skipped (Go 1.26 or newer: https://go.dev/dl)"
fi

#---------------------------------------------------------------- uv and the virtual environment
if has uv && uv --version >/dev/null 2>&1; then # a pyenv shim may be there without a uv behind it
    uv=$(command -v uv)
else
    uv=$PWD/.cache/tools/bin/uv
    if [ ! -x "$uv" ]; then
        # An environment of its own: Debian's Python refuses pip outside of one.
        install_uv() { "$python" -m venv .cache/tools && .cache/tools/bin/python -m pip install --quiet --disable-pip-version-check uv; }
        timed "uv (missing): into .cache/tools" install_uv ||
            fail "uv could not be installed from PyPI; it builds the virtual environment. The output is in $log. By hand: pipx install uv"
    fi
fi
export UV_PYTHON_DOWNLOADS=never
[ -x .venv/bin/python ] || export UV_PYTHON="$python"
# `uv sync` tells by itself what there is to do; asking it first keeps a settled tree quiet.
if ! "$uv" sync --all-packages --frozen --check >>"$log" 2>&1; then
    timed "virtual environment: uv sync (Python $("$python" -c 'import platform; print(platform.python_version())'))" \
        "$uv" sync --all-packages --frozen ||
        fail "uv could not make the virtual environment .venv: $(grep -m 1 -iE 'error|failed' "$log" || tail -n 1 "$log"). All of it is in $log."
fi
[ -e .venv/bin/uv ] || ln -s "$uv" .venv/bin/uv # where make finds it

#---------------------------------------------------------------- promtool
# Checks alerts and dashboards. Of Debian's package prometheus only this program is taken: installing it would start a daemon.
fetch_promtool() {
    local scratch
    scratch=$(mktemp -d) && chmod 755 "$scratch"
    (cd "$scratch" && apt-get download prometheus) &&
        dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb | tar -x -C "$scratch" ./usr/bin/promtool &&
        install -D -m 755 "$scratch/usr/bin/promtool" .cache/tools/bin/promtool
    local code=$?
    rm -rf "$scratch"
    return $code
}
if [ -n "$tests" ] && ! has promtool && [ ! -x .cache/tools/bin/promtool ]; then
    if apt_lists_missing && may_install; then update_lists; fi
    timed "promtool (missing): from the package prometheus" fetch_promtool ||
        step "promtool could not be fetched; tests of alerts and dashboards are skipped. The output is in $log"
fi

#---------------------------------------------------------------- the guest
if [ ! -e .cache/images/virtrigaud-guest.qcow2 ] && apt_lists_missing && may_install; then update_lists; fi
images/guest/build.sh | sed '$d' # the last line is the path, for scripts
step "ready ($SECONDS s)"
