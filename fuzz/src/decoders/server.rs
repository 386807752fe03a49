//! Decoders of the coordinator's files.

use super::told;
use tessera_common::id::Digest;
use tessera_common::round::Engine;
use tessera_common::spec::RunSpec;
use tessera_server::journal::{Entry, Journal};
use tessera_server::store::Snapshot;

/// Spec of the run that journals and snapshots are about: two members, everything that can be waited for.
pub(super) const SPEC: &str = r#"
version = 1
name = "t"
rounds = 3
task = { kind = "classify", classes = 2, modalities = { a = 2, b = 1 } }
cohort = { members = 2, size = 2, quorum = 1, patience = "1s", deadline = "10s", absence = "2s", late = "next-round" }
evaluate = { every = 1, members = 1 }
"#;

/// A size with its unit.
pub(super) fn size(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match tessera_server::parse_size(text) {
        Ok(bytes) => assert_eq!(tessera_server::parse_size(&format!("{bytes}B")), Ok(bytes)),
        Err(error) if text.len() <= 1024 => told(&error),
        Err(_) => {}
    }
}

/// A journal file.
pub(super) fn journal(data: &[u8]) {
    let mut seen = 0;
    let scanned = Journal::scan_bytes(data, SPEC, &mut |mark, payload| {
        seen += 1;
        assert_eq!(mark.records, seen);
        assert!(payload.len() + 40 <= data.len());
        Ok(())
    });
    match scanned {
        Ok(scan) => assert!(scan.records == seen && scan.torn_bytes <= data.len() as u64),
        Err(error) => told(&error),
    }
}

fn record(journal: &mut Vec<u8>, chain: &mut Digest, payload: &[u8]) {
    *chain = Digest::of(&[chain.as_bytes(), payload].concat());
    journal.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    journal.extend_from_slice(&crc32(payload).to_le_bytes());
    journal.extend_from_slice(chain.as_bytes());
    journal.extend_from_slice(payload);
}

/// CRC-32 of ISO 3309, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// A journal whose records are the lines of `data`, whole and torn: intact records are read, a torn tail is told.
pub(super) fn journal_records(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
    let (mut bytes, mut chain, mut last) = (Vec::new(), Digest::of(SPEC.as_bytes()), 0);
    for line in &lines {
        last = bytes.len();
        record(&mut bytes, &mut chain, line);
    }
    let count = |bytes: &[u8]| Journal::scan_bytes(bytes, SPEC, &mut |_, _| Ok(()));
    let whole = count(&bytes).unwrap_or_else(|e| panic!("a whole journal is not read: {e}"));
    assert_eq!((whole.records, whole.torn_bytes), (lines.len() as u64, 0));
    let cut = last + data.first().map_or(0, |&b| usize::from(b)) % (bytes.len() - last).max(1);
    match count(&bytes[..cut]) {
        Ok(scan) => assert_eq!((scan.records, scan.torn_bytes), (lines.len().saturating_sub(1) as u64, (cut - last) as u64)),
        // the torn part may hold what looks like a record
        Err(error) => told(&error),
    }
    if let Some(at) = bytes.len().checked_sub(1) {
        bytes[at] ^= 1;
        assert!(count(&bytes).is_ok_and(|scan| scan.records < lines.len() as u64) || lines.len() > 1 || last == 0);
    }
}

/// The events of a journal, one JSON per line: the engine takes or refuses each, and its state is kept and found again.
pub(super) fn engine(data: &[u8]) {
    let spec = RunSpec::from_toml(SPEC).unwrap_or_else(|e| panic!("{e}"));
    let mut engine = Engine::new(spec.clone());
    for line in data.split(|&b| b == b'\n').take(64) {
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
        let text = serde_json::to_string(&entry).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(serde_json::from_str::<Entry>(&text).ok().as_ref(), Some(&entry), "an entry is read as it was written");
        let _ = engine.handle(entry.at, entry.event);
        // each command is carried out at most once, so they end
        for taken in 0.. {
            assert!(taken < 10_000, "commands without end");
            if engine.poll().is_none() {
                break;
            }
        }
        let _ = engine.next_deadline();
    }
    let state = engine.snapshot();
    let text = serde_json::to_string(&state).unwrap_or_else(|e| panic!("{e}"));
    let read = serde_json::from_str(&text).unwrap_or_else(|e| panic!("a state is not read again: {e}"));
    assert_eq!(Engine::restore(spec, read).snapshot(), state);
}

/// A run's snapshot in the store.
pub(super) fn snapshot(data: &[u8]) {
    match serde_json::from_slice::<Snapshot>(data) {
        Err(error) => told(&error),
        Ok(snapshot) => {
            let text = serde_json::to_string(&snapshot).unwrap_or_else(|e| panic!("{e}"));
            let again: Snapshot = serde_json::from_str(&text).unwrap_or_else(|e| panic!("a snapshot is not read again: {e}"));
            assert_eq!(again, snapshot);
        }
    }
}
