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

# The optimised, stripped binary.
dist:
    cargo build --profile dist
