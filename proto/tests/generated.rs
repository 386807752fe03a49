//! The committed code is what the proto files say.
//!
//! After a change of a proto file, run `UPDATE=1 cargo test -p tessera-proto --test generated` and commit the result.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let files = protox::compile(["tessera/v1/tessera.proto"], [root]).unwrap();
    tonic_prost_build::configure()
        // payloads are shared, not copied; a leading dot and no trailing one, or nothing matches
        .bytes(".tessera.v1")
        // maps are ordered, so that equal messages have equal bytes
        .btree_map(".tessera.v1")
        .out_dir(out.path())
        .compile_fds(files)
        .unwrap();
    let fresh = std::fs::read_to_string(out.path().join("tessera.v1.rs")).unwrap();
    let committed = root.join("src/gen/tessera.v1.rs");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(committed.parent().unwrap()).unwrap();
        std::fs::write(&committed, &fresh).unwrap();
    }
    let old = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(old == fresh, "src/gen is not what proto/tessera says: run `UPDATE=1 cargo test -p tessera-proto --test generated`");
}
