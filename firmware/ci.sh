#!/usr/bin/env bash
# Everything about the device that must hold: `bash firmware/ci.sh`, from anywhere in a clone.
#
# Builds the crates of the device for the processors they are meant for, builds the firmware and runs it in QEMU, builds the firmware
# for ESP32-C3 and ESP32-C6 and makes images of it, and type-checks it for the ESP32-S3.
# On Debian (as root) it installs what is missing; elsewhere install QEMU for Arm, `pip install esptool`, and the targets with
# `rustup target add thumbv6m-none-eabi thumbv7em-none-eabihf thumbv7m-none-eabi riscv32imc-unknown-none-elf riscv32imac-unknown-none-elf aarch64-unknown-none`.
#
# What an ESP32's HAL is built of takes minutes to compile. It is kept in ~/.cache/pageformer (or $XDG_CACHE_HOME), also for fresh clones.
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
for target in "${targets[@]}" thumbv7m-none-eabi riscv32imac-unknown-none-elf; do
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
check=(build --release --locked --quiet "${targets[@]/#/--target=}" "${device_crates[@]/#/-ppageformer-}")
if [ "$installed" = yes ]; then
    cargo "${check[@]}"
else
    RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc /usr/bin/cargo "${check[@]}" -Zbuild-std=core
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pageformer
mkdir -p "$cache"
if command -v esptool >/dev/null; then
    esptool=esptool
else
    esptool=$cache/esptool/bin/esptool
    # Anything but a whole installation is made anew.
    if ! "$esptool" version >/dev/null 2>&1; then
        echo "== installing esptool"
        rm -rf "$cache/esptool"
        python3 -m venv "$cache/esptool"
        "$cache/esptool/bin/pip" install --quiet --disable-pip-version-check 'esptool~=5.0'
    fi
fi

echo "== QEMU, images for ESP32"
# The whole workspace is named, so that what `cargo test --workspace` has built is used again.
PAGEFORMER_REQUIRE_EMULATOR=1 PAGEFORMER_REQUIRE_ESP32="$cache/firmware-target" PAGEFORMER_ESPTOOL="$esptool" \
    cargo test --locked --quiet --workspace --test emulate --test esp32 -- --nocapture

echo "== ESP32-S3"
if [ -x /usr/bin/cargo ] && [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/core" ]; then
    bash firmware/esp32/check-s3.sh "$cache/check-s3"
else
    echo "skipped: wants Debian's rustc-web, cargo-web and rust-web-src"
fi
