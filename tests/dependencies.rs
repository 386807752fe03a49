//! What may depend on what, asked of cargo itself.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

use std::collections::BTreeSet;
use std::process::Command;

fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_coordinator_links_neither_burn_nor_the_agent() {
    let server = tree("tessera-server");
    let bad: Vec<_> =
        server.iter().filter(|n| n.starts_with("burn") || n.starts_with("cubecl") || *n == "tessera-client").collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(!tree("tessera-client").contains("tessera-server"));
}

#[test]
fn the_pure_domain_stays_pure_and_short() {
    let common = tree("tessera-common");
    for banned in ["tokio", "tonic", "prost", "sled", "rustls", "getrandom", "burn", "tempfile", "tessera-proto"] {
        assert!(!common.contains(banned), "common depends on {banned}");
    }
    assert!(common.len() <= 48, "common has {} dependencies: {common:?}", common.len());
}

#[test]
fn one_tls_provider_is_linked() {
    let all: BTreeSet<String> = tree("tessera-server").union(&tree("tessera-client")).cloned().collect();
    assert!(all.contains("ring"));
    for banned in ["aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(!all.contains(banned), "{banned} is linked");
    }
}
