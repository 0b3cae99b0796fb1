#!/usr/bin/env bash
# Everything about the device that must hold: `bash firmware/ci.sh`, from anywhere in a clone.
#
# Builds the crates of the device for the processors they are meant for, builds the firmware and runs it in QEMU.
# On Debian (as root) it installs what is missing; elsewhere install QEMU for Arm, and the targets with
# `rustup target add thumbv6m-none-eabi thumbv7em-none-eabihf thumbv7m-none-eabi riscv32imc-unknown-none-elf aarch64-unknown-none`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 DEBIAN_FRONTEND=noninteractive

# The last is no microcontroller, but it compiles the NEON kernel.
targets=(thumbv6m-none-eabi thumbv7em-none-eabihf riscv32imc-unknown-none-elf aarch64-unknown-none)
device_crates=(card fat32 vram mount engine console firmware)

has_target() {
    [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]
}

packages=()
command -v qemu-system-arm >/dev/null || packages+=(qemu-system-arm)
installed=yes
for target in "${targets[@]}" thumbv7m-none-eabi; do
    has_target "$target" || installed=no
done
if [ "$installed" = no ]; then
    ls /usr/bin/ld.lld-* >/dev/null 2>&1 || packages+=(lld-22)
    [ -x /usr/bin/cargo ] || packages+=(rustc-web cargo-web)
    [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core" ] || packages+=(rust-web-src)
fi
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing, as Debian calls them: ${packages[*]}; the head of $0 says what else would do" >&2
        exit 1
    fi
    echo "== installing ${packages[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    apt-get update -qq
    # QEMU's tools must be of the same version as QEMU, or apt would remove them.
    if [[ " ${packages[*]} " == *" qemu-system-arm "* ]] && command -v qemu-img >/dev/null; then
        packages+=("qemu-utils=$(apt-cache policy qemu-system-arm | awk '/Candidate:/ {print $2}')")
    fi
    apt-get install -y -qq --no-install-recommends --allow-downgrades "${packages[@]}" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi

echo "== crates of the device for ${targets[*]}"
check=(check --locked --quiet "${targets[@]/#/--target=}" "${device_crates[@]/#/-ppageformer-}")
if [ "$installed" = yes ]; then
    cargo "${check[@]}"
else
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo "${check[@]}" -Zbuild-std=core
fi

echo "== QEMU"
# The whole workspace is named, so that what `cargo test --workspace` has built is used again.
PAGEFORMER_REQUIRE_EMULATOR=1 cargo test --locked --quiet --workspace --test emulate -- --nocapture
