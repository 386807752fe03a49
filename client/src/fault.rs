//! Places where a test stops the process or makes something fail. Release builds have none.
//!
//! A test sets places in the environment of a debug build of the binary, for example
//! `FAILPOINTS="agent/outbox-record-written=5*off->return"`: the process aborts the sixth time that it gets there. A place
//! may also be set by chance: `agent/lose-sent=5%return` loses one of twenty messages.

/// Every place where the process can be stopped, in order of name.
pub const POINTS: &[&str] = &[
    "agent/answer-after",
    "agent/answer-before",
    "agent/download-part",
    "agent/job-after-train",
    "agent/job-before",
    "agent/marker-written",
    "agent/outbox-blob-written",
    "agent/outbox-record-written",
    "agent/private-after-write",
    "agent/private-before-write",
    "agent/upload-after",
    "agent/upload-before",
    "agent/verdict-after-remove",
    "agent/verdict-before-remove",
    "agent/welcomed",
];

/// Every place where something can be made to fail or get lost, in order of name.
pub const HITS: &[&str] = &["agent/lose-blob", "agent/lose-received", "agent/lose-sent", "agent/no-space", "agent/panic-in-task"];

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
        let call = format!("{call}(\"agent/");
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
    fn a_place_is_set_by_name_and_by_chance() {
        let name = "a-place-of-this-test";
        assert!(!hit(name));
        fail::cfg(name, "1*off->1*return->off").unwrap();
        assert_eq!([hit(name), hit(name), hit(name)], [false, true, false]);
        fail::cfg(name, "5%return").unwrap();
        let hits = (0..10_000).filter(|_| hit(name)).count();
        // more than ten standard deviations to either side
        assert!((270..730).contains(&hits), "{hits} of 10000");
        fail::remove(name);
    }
}
