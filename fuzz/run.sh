#!/usr/bin/env bash
# Builds the fuzz targets and runs each for SECONDS (10 if not given) from its committed corpus; fails on the first crash
# and leaves the input that caused it in fuzz/artifacts.
#
# Needs nothing but cargo and a C++ compiler (for libFuzzer): stable compilers place coverage counters, too. Panics,
# overflows and endless loops are what is looked for, so no sanitizer is built in; there is no unsafe code but in the kernels.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-10}
targets=(manifest fat tokenizer card)

flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"

# With a target given, flags are not for build scripts and macros, which could not be linked with them.
host=$(rustc -vV | sed -n 's/^host: //p')
build=(cargo build --release --locked --target "$host" --target-dir target)
for target in "${targets[@]}"; do
    build+=(--bin "$target")
done
RUSTFLAGS="$flags" "${build[@]}"

# New inputs go to a folder that is thrown away; what is worth keeping is put into the corpus by hand. The seed makes a run
# that failed happen again; `fuzz/run.sh 600` on another seed is for looking further.
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
mkdir -p artifacts
for target in "${targets[@]}"; do
    mkdir -p "$found/$target"
    log="$found/$target.log"
    echo "fuzz: $target for $seconds s"
    if ! "target/$host/release/$target" -seed=1 -max_total_time="$seconds" -timeout=10 -max_len=4096 -artifact_prefix="artifacts/$target-" \
        "$found/$target" "corpus/$target" >"$log" 2>&1; then
        tail -60 "$log"
        echo "fuzz: $target failed; the input is in fuzz/artifacts" >&2
        exit 1
    fi
    tail -1 "$log"
done
