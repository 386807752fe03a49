# `just check` never writes; `just fix` does.

default:
    @just --list

# Everything that CI checks, cheapest first.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy -p tessera --no-default-features --features server -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    if command -v cargo-deny >/dev/null; then cargo deny check; else echo "skipped: cargo-deny is not installed"; fi
    cargo test

# Format, and apply what clippy can mend by itself.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    UPDATE=1 cargo test -p tessera-proto --test generated

# The acceptance table of docs/missing-modality.md, mean over five seeds; minutes.
accept:
    cargo test --test accept -- --include-ignored --nocapture --test-threads 1

# Kills at every fault point, damaged files, lost messages, memory: the table of docs/reliability.md; most of an hour.
faults:
    TESSERA_SEEDS=20000 cargo test --test virtual_faults -- --nocapture
    cargo test --test faults -- --include-ignored --nocapture --test-threads 1

# 10,000 silent connections beside an honest run, and what mTLS costs: the figures of docs/security.md; minutes.
security:
    cargo test --test security -- --include-ignored --nocapture --test-threads 1

# The optimised, stripped binary.
dist:
    cargo build --profile dist

# Every decoder against generated input, 30 seconds each, from the corpus in fuzz/corpus; needs nightly and cargo-fuzz.
fuzz seconds="30":
    #!/usr/bin/env bash
    set -euo pipefail
    cargo +nightly fuzz build -s none --fuzz-dir fuzz
    total=0
    for corpus in fuzz/corpus/*/; do
        name=$(basename "$corpus")
        # the settings of an agent are read by `cargo test` alone: that code links Burn
        [ -f "fuzz/fuzz_targets/$name.rs" ] || continue
        work="fuzz/target/work/$name"
        mkdir -p "$work"
        cargo +nightly fuzz run "$name" -s none --fuzz-dir fuzz "$work" "$corpus" -- -max_total_time={{seconds}} \
            -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 2> "$work.log" || { tail -40 "$work.log"; exit 1; }
        count=$(sed -n 's/stat::number_of_executed_units: *//p' "$work.log")
        total=$((total + count))
        echo "$name: $count inputs"
    done
    echo "$total inputs, no panic, no hang"

# The tables of docs/mlip.md and their bounds; an hour on two cores.
mlip:
    cargo test --test mlip -- --include-ignored --nocapture --test-threads 1

# An export of the image-text model against a PyTorch model of its own; needs torch, numpy and safetensors.
pytorch:
    cargo test --test pytorch -- --include-ignored --nocapture

# An agent for graphics cards compiles: a dozen minutes of processor time the first time, nothing of it runs.
gpu:
    cargo check -p tessera-client --features gpu
