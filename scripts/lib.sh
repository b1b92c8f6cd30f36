# What every script here needs: saying what happens, packages, the toolchain, building. Sourced, not run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || die "$1 must run as root: it makes network namespaces; try: sudo $0"
}

# Debian packages to build, and to run the lab.
BUILD_PACKAGES=(build-essential pkg-config libdpdk-dev libclang-dev protobuf-compiler libprotobuf-dev)
LAB_PACKAGES=(bind9-dnsutils bird2 bsdextrautils dpdk etcd-server etcd-client nginx-light curl iproute2 ethtool iperf3 iputils-ping openssh-client openssh-server socat tcpdump procps util-linux)

# And to count instructions.
COUNT_PACKAGES=(valgrind)

# Installs what is missing of the named packages. Their services are not started: the lab starts its own.
need_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    need_root "installing ${missing[*]}"
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
        made=1
    fi
    local status=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
        >/tmp/turnpike-apt.log 2>&1 || status=$?
    [ -z "$made" ] || rm -f $policy
    [ $status = 0 ] || { tail -5 /tmp/turnpike-apt.log >&2; die "apt-get could not install ${missing[*]}; the whole log is /tmp/turnpike-apt.log"; }
}

# The toolchain that rust-toolchain.toml names, or an installed one of the same version under another name.
need_toolchain() {
    command -v cargo >/dev/null || [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 with rustup"
    command -v rustup >/dev/null || return 0
    local wanted name
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$ROOT/rust-toolchain.toml")
    rustup toolchain list | grep -q "^$wanted-" && return 0
    for name in $(rustup toolchain list | cut -d' ' -f1); do
        if rustup run "$name" rustc --version | grep -q "^rustc $wanted "; then
            export RUSTUP_TOOLCHAIN=$name
            return 0
        fi
    done
    say "Rust $wanted is not installed; rustup will fetch it"
}

# Where cargo puts the programs of the profile that the lab and the tests use.
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
BIN=$TARGET/debug
export BIN

build_programs() {
    say "building Turnpike (the first time takes some minutes)"
    (cd "$ROOT" && cargo build --quiet --locked -p turnpike-dataplane -p turnpike-controlplane -p turnpike -p turnpike-tests --bins \
        && cargo build --quiet --locked -p turnpike-benches --bin turnpike-bench) \
        || die "the build failed"
}
