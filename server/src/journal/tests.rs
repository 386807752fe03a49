use super::*;
use tempfile::TempDir;

const SPEC: &str = "name = \"t\"";

fn entry(n: u64) -> Entry {
    Entry { at: n, event: Event::PauseAsked { reason: format!("reason {n}") } }
}

fn written(dir: &TempDir, count: u64) -> PathBuf {
    let path = dir.path().join("journal");
    let mut journal = Journal::create(&path, SPEC).unwrap();
    journal.append(&[entry(0)]).unwrap();
    journal.append(&(1..count).map(entry).collect::<Vec<_>>()).unwrap();
    path
}

fn read(path: &Path) -> Result<(Vec<Entry>, Journal), Error> {
    let mut entries = Vec::new();
    let journal = Journal::open(path, SPEC, &mut |mark, payload| {
        entries.push(serde_json::from_slice(payload).unwrap());
        assert_eq!(mark.records, entries.len() as u64);
        Ok(())
    })?;
    Ok((entries, journal))
}

#[test]
fn what_is_appended_is_read_again_and_appended_to() {
    let dir = TempDir::new().unwrap();
    let path = written(&dir, 5);
    let (entries, mut journal) = read(&path).unwrap();
    assert_eq!(entries, (0..5).map(entry).collect::<Vec<_>>());
    journal.append(&[entry(5)]).unwrap();
    let (entries, again) = read(&path).unwrap();
    assert_eq!(entries.len(), 6);
    assert_eq!(again.mark(), journal.mark());
}

#[test]
fn the_chain_is_the_same_in_memory() {
    let dir = TempDir::new().unwrap();
    let mut memory = Journal::in_memory(SPEC);
    memory.append(&(0..5).map(entry).collect::<Vec<_>>()).unwrap();
    assert_eq!(read(&written(&dir, 5)).unwrap().1.mark(), memory.mark());
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_tears() {
    let dir = TempDir::new().unwrap();
    let path = written(&dir, 4);
    let whole = std::fs::read(&path).unwrap();
    let last = whole.len() - record_len(&entry(3));
    for cut in last..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (entries, mut journal) = read(&path).unwrap();
        assert_eq!(entries.len(), 3, "cut at {cut}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), last as u64);
        journal.append(&[entry(3)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole, "as if nothing had been torn");
    }
    // a tail of which only the length reached the disk
    std::fs::write(&path, [&whole[..last + 20], &[0; 500]].concat()).unwrap();
    assert_eq!(read(&path).unwrap().0.len(), 3);
}

fn record_len(entry: &Entry) -> usize {
    HEAD + serde_json::to_vec(entry).unwrap().len()
}

#[test]
fn damage_in_the_middle_is_an_error_that_names_the_place() {
    let dir = TempDir::new().unwrap();
    let path = written(&dir, 4);
    let whole = std::fs::read(&path).unwrap();
    let second = record_len(&entry(0));
    let end = second + record_len(&entry(1));
    // length, checksum, chain and payload: every byte of the second record
    for at in second..end {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("the record at byte {second} is damaged")), "byte {at}: {error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "it is left as it is");
    }
}

#[test]
fn no_event_can_be_taken_out_or_changed_and_no_spec_exchanged() {
    let dir = TempDir::new().unwrap();
    let path = written(&dir, 4);
    let whole = std::fs::read(&path).unwrap();
    let (first, second) = (record_len(&entry(0)), record_len(&entry(1)));
    std::fs::write(&path, [&whole[..first], &whole[first + second..]].concat()).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("it does not follow from what is before it"), "{error}");

    std::fs::write(&path, &whole).unwrap();
    let error = Journal::open(&path, "name = \"u\"", &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains("the file or the spec was altered"), "{error}");
}

#[test]
fn after_a_failed_write_nothing_more_is_taken() {
    let dir = TempDir::new().unwrap();
    let path = written(&dir, 2);
    let mut journal = Journal::unwritable(&path, SPEC);
    let before = journal.mark();
    assert!(journal.append(&[entry(2)]).is_err());
    assert_eq!(journal.mark(), before);
    assert!(journal.append(&[entry(2)]).unwrap_err().to_string().contains("an earlier write failed"));
    assert_eq!(read(&path).unwrap().0.len(), 2);
}

#[test]
fn metrics_keep_their_bits() {
    use tessera_common::metric::Metrics;
    use tessera_common::update::UpdateRef;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("journal");
    let mut metrics = Metrics::default();
    for i in 1..200u32 {
        metrics.add(format!("m{i}"), f64::from(i).sqrt() * 1e-7 / 3.0, f64::from(i) * 1e17);
    }
    let update = UpdateRef {
        member: "a".parse().unwrap(),
        assignment: tessera_common::id::AssignmentId(3),
        blob: None,
        bytes: 0,
        examples: 1,
        weights: [("head".to_owned(), 1)].into(),
        metrics,
    };
    let entry = Entry { at: 1, event: Event::Answered(update) };
    Journal::create(&path, SPEC).unwrap().append(std::slice::from_ref(&entry)).unwrap();
    assert_eq!(read(&path).unwrap().0, [entry]);
}
