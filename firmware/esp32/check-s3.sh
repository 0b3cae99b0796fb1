#!/usr/bin/env bash
# Type-checks the firmware for the ESP32-S3 with a compiler that cannot build it: `bash firmware/esp32/check-s3.sh [FOLDER]`.
#
# Only Espressif's own compiler assembles for Xtensa; any other stops at the `asm!` of a few crates. So those crates are copied from
# cargo's registry to FOLDER, their assembly is replaced by a macro that diverges, and everything else is checked as it is: every
# call into the HAL, with the chip's own registers, pins and features. No code is generated, so this says nothing about linking.
#
# Needs Debian's rustc-web, cargo-web and rust-web-src, as `firmware/ci.sh` installs them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
out=$(realpath -m "${1:-target/check-s3}")
crates=(esp-hal esp-sync xtensa-lx xtensa-lx-rt)
export RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc CARGO_TERM_COLOR=never
unset RUSTUP_TOOLCHAIN RUSTFLAGS
cargo=/usr/bin/cargo
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src

mkdir -p "$out/noasm/src" "$out/app"
cat >"$out/noasm/Cargo.toml" <<'EOF'
[package]
name = "noasm"
version = "0.0.0"
edition = "2024"

[workspace]
EOF
cat >"$out/noasm/src/lib.rs" <<'EOF'
#![no_std]
#[macro_export]
macro_rules! asm { ($($t:tt)*) => { ::core::unimplemented!() } }
#[macro_export]
macro_rules! naked_asm { ($($t:tt)*) => { ::core::unimplemented!() } }
#[macro_export]
macro_rules! global_asm { ($($t:tt)*) => { const _: () = (); } }
EOF

# The firmware, with its paths made absolute.
sed -E "s#path = \"\.\./#path = \"$here/../#" Cargo.toml >"$out/app/Cargo.toml.new"
cp Cargo.lock "$out/app/Cargo.lock.new"
rm -rf "$out/app/src"
cp -r src "$out/app/src"
$cargo fetch --quiet --locked
printf '\n[patch.crates-io]\n' >>"$out/app/Cargo.toml.new"
for crate in "${crates[@]}"; do
    version=$(awk -v name="name = \"$crate\"" '$0 == name {getline; gsub(/[^0-9.]/, ""); print; exit}' Cargo.lock)
    copy=$out/$crate-$version
    if [ -z "$version" ] || ! ls -d "$registry"/*/"$crate-$version" >/dev/null 2>&1; then
        echo "$crate $version is not in $registry" >&2
        exit 1
    fi
    if [ ! -d "$copy" ]; then
        rm -rf "$copy.new"
        cp -r "$registry"/*/"$crate-$version" "$copy.new"
        chmod -R u+w "$copy.new"
        find "$copy.new/src" -name '*.rs' -exec sed -i -E \
            -e 's/core::arch::(\{[a-z_, ]*asm[a-z_, ]*\}|(global_|naked_)?asm\b)/noasm::\1/g' -e 's/#\[unsafe\(naked\)\]//' {} +
        printf '\n[dependencies.noasm]\npath = "%s/noasm"\n' "$out" >>"$copy.new/Cargo.toml"
        mv "$copy.new" "$copy"
    fi
    echo "$crate = { path = \"$copy\" }" >>"$out/app/Cargo.toml.new"
done
# Written only when they change, so that nothing is checked again without need.
for file in Cargo.toml; do
    cmp -s "$out/app/$file.new" "$out/app/$file" || cp "$out/app/$file.new" "$out/app/$file"
done
# The patched crates are not from the registry any more: cargo edits the lock file, and keeps every other version.
[ "$out/app/Cargo.lock" -nt Cargo.lock ] || cp "$out/app/Cargo.lock.new" "$out/app/Cargo.lock"
rm -f "$out"/app/*.new

# LLVM's idea of Xtensa's data layout is older than rustc's, which refuses to begin. Nothing is laid out here.
target=$out/xtensa-esp32s3-none-elf.json
$RUSTC -Zunstable-options --print target-spec-json --target xtensa-esp32s3-none-elf 2>/dev/null |
    sed -E 's/"data-layout": "[^"]*"/"data-layout": "e-m:e-p:32:32-i8:8:32-i16:16:32-i64:64-n32"/; s/"cpu": "[^"]*"/"cpu": "generic"/' >"$target.new"
cmp -s "$target.new" "$target" && rm "$target.new" || mv "$target.new" "$target"

cd "$out/app"
for features in esp32s3 esp32s3,sdhost; do
    log=$out/log
    if ! $cargo check --release --features "$features" --target "$target" -Zjson-target-spec -Zbuild-std=core \
        --target-dir "$out/target" >"$log" 2>&1; then
        grep -A 20 '^error' "$log" >&2 || cat "$log" >&2
        exit 1
    fi
    # Those of the copies are of no interest.
    if grep -A 1 '^warning' "$log" | grep -E -- '--> (src/|.*firmware/)' >&2; then
        echo "warnings, all of them in $log" >&2
        exit 1
    fi
    echo "ESP32-S3, features $features: type-checked"
done
