#!/usr/bin/env bash
# Everything about the device that must hold: `bash firmware/ci.sh`, from anywhere in a clone.
#
# Builds the crates of the device for the processors they are meant for, builds the firmware and runs it in QEMU.
# On Debian (as root) it installs what is missing; elsewhere install QEMU for Arm, and the targets with
# `rustup target add thumbv6m-none-eabi thumbv7em-none-eabihf thumbv7m-none-eabi riscv32imc-unknown-none-elf`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0 DEBIAN_FRONTEND=noninteractive

targets=(thumbv6m-none-eabi thumbv7em-none-eabihf riscv32imc-unknown-none-elf)
device_crates=(card fat32 vram mount engine console)

has_target() {
    [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ]
}

packages=()
command -v qemu-system-arm >/dev/null || packages+=(qemu-system-arm)
for target in "${targets[@]}" thumbv7m-none-eabi; do
    if ! has_target "$target"; then
        ls /usr/bin/ld.lld-* >/dev/null 2>&1 || packages+=(lld-22)
        [ -x /usr/bin/cargo ] || packages+=(rustc-web cargo-web)
        [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core" ] || packages+=(rust-web-src)
        break
    fi
done
if [ ${#packages[@]} -gt 0 ]; then
    apt-get update -qq
    # QEMU's tools must be of the same version as QEMU, or apt would remove them.
    if [[ " ${packages[*]} " == *" qemu-system-arm "* ]] && command -v qemu-img >/dev/null; then
        packages+=("qemu-utils=$(apt-cache policy qemu-system-arm | awk '/Candidate:/ {print $2}')")
    fi
    apt-get install -y -qq --no-install-recommends --allow-downgrades "${packages[@]}"
fi

for target in "${targets[@]}"; do
    echo "== $target"
    if has_target "$target"; then
        cargo check --release --locked --target "$target" "${device_crates[@]/#/-ppageformer-}"
    else
        RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo check --release --locked -Zbuild-std=core \
            --target "$target" "${device_crates[@]/#/-ppageformer-}"
    fi
done

echo "== QEMU"
PAGEFORMER_REQUIRE_EMULATOR=1 cargo test --locked -p xtask -- --nocapture
