//! Places where a test stops the process or makes something fail. Release builds have none.
//!
//! A test sets places in the environment of a debug build of the binary, for example
//! `FAILPOINTS="coordinator/journal-after-write=5*off->return"`: the process aborts the sixth time that it gets there.

/// Every place where the process can be stopped, in order of name.
pub const POINTS: &[&str] = &[
    "coordinator/blob-after-dir-fsync",
    "coordinator/blob-after-fsync",
    "coordinator/blob-after-rename",
    "coordinator/blob-before-fsync",
    "coordinator/blob-part-written",
    "coordinator/command-assign-before",
    "coordinator/command-cancel-before",
    "coordinator/command-finish-before",
    "coordinator/command-fold-before",
    "coordinator/command-publish-before",
    "coordinator/command-report-before",
    "coordinator/commands-after",
    "coordinator/gc-after-remove",
    "coordinator/gc-before-remove",
    "coordinator/journal-after-fsync",
    "coordinator/journal-after-write",
    "coordinator/journal-before-write",
    "coordinator/quarantine-before-rename",
    "coordinator/store-after-history",
    "coordinator/store-after-snapshot",
    "coordinator/store-before-receipt",
    "coordinator/store-before-snapshot",
    "coordinator/submit-after-rename",
    "coordinator/submit-before-rename",
    "coordinator/verdict-before",
];

/// Every place where something can be made to fail or get lost, in order of name.
pub const HITS: &[&str] = &[
    "coordinator/ack-early",
    "coordinator/blob-no-space",
    "coordinator/journal-no-space",
    "coordinator/lose-received",
    "coordinator/lose-sent",
    "coordinator/panic",
];

/// A place where the process can be stopped: it aborts here if the place is set to `return`.
pub(crate) fn point(name: &'static str) {
    if is_set(name) {
        std::process::abort();
    }
}

/// A place where something can be made to fail or get lost: true if it is set to `return`.
pub(crate) fn hit(name: &'static str) -> bool {
    is_set(name)
}

#[cfg(debug_assertions)]
fn is_set(name: &'static str) -> bool {
    fail::fail_point!(name, |_| true);
    false
}

#[cfg(not(debug_assertions))]
fn is_set(_: &'static str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    fn sources(dir: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(fs::read_to_string(path).unwrap());
            }
        }
    }

    fn called(texts: &[String], call: &str) -> Vec<String> {
        let call = format!("{call}(\"coordinator/");
        let start = call.find('"').unwrap() + 1;
        let names = texts.iter().flat_map(|text| text.match_indices(&call).map(move |(at, _)| &text[at + start..]));
        let names: BTreeSet<&str> = names.map(|rest| rest.split('"').next().unwrap()).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn the_lists_are_complete() {
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        assert_eq!(called(&texts, "point"), POINTS, "the sources (left) and POINTS (right)");
        assert_eq!(called(&texts, "hit"), HITS, "the sources (left) and HITS (right)");
    }

    #[test]
    fn a_place_is_set_by_name() {
        let name = "a-place-of-this-test";
        assert!(!hit(name));
        fail::cfg(name, "1*off->1*return->off").unwrap();
        assert_eq!([hit(name), hit(name), hit(name)], [false, true, false]);
        fail::remove(name);
    }
}
