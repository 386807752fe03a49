use super::*;
use tessera_common::metric::{Metric, Metrics};
use tessera_common::round::Work;

fn run() -> RunId {
    "first".parse().unwrap()
}

fn open(dir: &Path) -> Outbox {
    Outbox::new(StateDir::take(dir).unwrap().unwrap())
}

fn record(id: u64, blob: &[u8]) -> Record {
    let (member, assignment) = ("north".parse().unwrap(), AssignmentId(id));
    // values whose text is long, and which come back to the bit only if they are read with care
    let metric = Metric { sum: 0.1 + 0.2, count: 1.0 / 3.0 };
    Record {
        spec: Digest::of(b"spec"),
        assignment: Assignment {
            id: assignment,
            member,
            work: Work::Fit,
            round: 2,
            global: Some(Digest::of(b"g")),
            statistics: None,
        },
        update: UpdateRef {
            member: "north".parse().unwrap(),
            assignment,
            blob: (!blob.is_empty()).then(|| Digest::of(blob)),
            bytes: blob.len() as u64,
            examples: 7,
            weights: [("head".to_owned(), 7)].into(),
            metrics: Metrics([("fit/loss".to_owned(), metric)].into()),
        },
    }
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join("outbox/first")) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What damage makes of a file's text.
type Change = Box<dyn Fn(String) -> String>;

#[test]
fn an_answer_is_there_after_a_restart_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (fit, metrics) = (record(5, b"tensors"), record(6, b""));
    {
        let outbox = open(dir.path());
        assert!(outbox.keep(&run(), &fit, b"tensors") && outbox.keep(&run(), &metrics, b""));
        // what a death in the middle leaves
        fs::write(dir.path().join("outbox/first/7.json.tmp"), "{").unwrap();
        fs::write(dir.path().join("outbox/first").join(blob_name(AssignmentId(8), &Digest::of(b"x"))), "x").unwrap();
        fs::write(dir.path().join("outbox/first/notes.txt"), "not ours").unwrap();
    }
    let outbox = open(dir.path());
    let expected = BTreeMap::from([((run(), AssignmentId(5)), fit.clone()), ((run(), AssignmentId(6)), metrics)]);
    assert_eq!(outbox.load(), expected);
    assert_eq!(files(dir.path()), [&blob_name(AssignmentId(5), &Digest::of(b"tensors")), "5.json", "6.json", "notes.txt"]);
    assert_eq!(outbox.read(&run(), &fit.update).unwrap(), b"tensors");
    outbox.remove(&run(), AssignmentId(5), fit.update.blob);
    assert_eq!(files(dir.path()), ["6.json", "notes.txt"]);
    outbox.close(&run());
    assert_eq!(files(dir.path()), ["notes.txt"], "what is not ours stays");
    assert!(outbox.load().is_empty());
}

#[test]
fn a_closed_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path());
    assert!(outbox.keep(&run(), &record(5, b"tensors"), b"tensors"));
    outbox.begin(&run(), &Digest::of(b"spec"), &record(6, b"").assignment);
    fs::write(dir.path().join("outbox/first/4.json.damaged"), "").unwrap();
    outbox.close(&run());
    assert!(!dir.path().join("outbox/first").exists());
}

#[test]
fn damage_of_any_kind_is_put_aside() {
    let blob = blob_name(AssignmentId(5), &Digest::of(b"tensors"));
    let edit = |from: &'static str, to: &'static str| move |text: String| text.replacen(from, to, 1);
    let cases: Vec<(&str, Change)> = vec![
        ("5.json", Box::new(edit("\"examples\":7", "\"examples\":8"))),
        ("5.json", Box::new(edit("\"round\":2", "\"round\":3"))),
        ("5.json", Box::new(|text| text[..text.len() / 2].to_owned())),
        ("5.json", Box::new(|_| String::new())),
        (&blob, Box::new(|_| "tens".into())),
    ];
    for (name, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        let outbox = open(dir.path());
        assert!(outbox.keep(&run(), &record(5, b"tensors"), b"tensors"));
        assert!(outbox.keep(&run(), &record(6, b"others"), b"others"));
        let path = dir.path().join("outbox/first").join(name);
        let text = fs::read_to_string(&path).unwrap();
        let damaged = damage(text.clone());
        assert_ne!(damaged, text);
        fs::write(&path, damaged).unwrap();
        let left: Vec<Key> = outbox.load().into_keys().collect();
        assert_eq!(left, [(run(), AssignmentId(6))], "{name}");
        assert!(files(dir.path()).contains(&format!("{name}.damaged")), "{:?}", files(dir.path()));
        assert_eq!(outbox.load().len(), 1, "once is enough");
    }
}

#[test]
fn tensors_with_a_flipped_bit_are_noticed_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path());
    let record = record(5, b"tensors");
    assert!(outbox.keep(&run(), &record, b"tensors"));
    let path = dir.path().join("outbox/first").join(blob_name(AssignmentId(5), &Digest::of(b"tensors")));
    fs::write(path, b"tensorz").unwrap();
    assert_eq!(outbox.load().len(), 1, "the length is right");
    assert!(outbox.read(&run(), &record.update).unwrap_err().contains("another digest"));
    assert!(outbox.load().is_empty());
}

#[test]
fn work_is_not_begun_a_fourth_time() {
    let dir = tempfile::tempdir().unwrap();
    let (spec, assignment) = (Digest::of(b"spec"), record(5, b"").assignment);
    for before in 0..MOST_STARTS {
        assert_eq!(open(dir.path()).begin(&run(), &spec, &assignment), before);
    }
    let outbox = open(dir.path());
    assert_eq!(outbox.begin(&run(), &spec, &assignment), MOST_STARTS);
    assert_eq!(outbox.begin(&run(), &spec, &assignment), MOST_STARTS, "it stays so");
    let other = Assignment { round: 3, ..assignment.clone() };
    assert_eq!(outbox.begin(&run(), &spec, &other), 0, "another assignment of the same number");
    outbox.ended(&run(), assignment.id);
    assert_eq!(outbox.begin(&run(), &spec, &assignment), 0);
    fs::write(dir.path().join("outbox/first/5.started"), "3").unwrap();
    assert_eq!(outbox.begin(&run(), &spec, &assignment), 0, "a damaged note is none");
    outbox.remove(&run(), assignment.id, None);
    assert!(files(dir.path()).is_empty());
}

#[cfg(unix)]
#[test]
fn a_disk_that_refuses_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(dir.path());
    // a file where the folder should be: refused for root, too
    fs::write(dir.path().join("outbox"), "").unwrap();
    assert!(!outbox.keep(&run(), &record(5, b"tensors"), b"tensors"));
    fs::remove_file(dir.path().join("outbox")).unwrap();
    // a folder where the record should be
    fs::create_dir_all(dir.path().join("outbox/first/5.json")).unwrap();
    assert!(!outbox.keep(&run(), &record(5, b"tensors"), b"tensors"));
    assert_eq!(files(dir.path()), ["5.json"], "the tensors are gone");
}

#[test]
fn names_of_others_are_not_ours() {
    for name in
        ["private-1-x.safetensors", "spec.toml", "5", "05.json", "-5.json", "5-x.safetensors", "5.json.bak", ".tmp", "x.tmp"]
    {
        assert_eq!(Name::of(name), None, "{name}");
    }
    assert_eq!(Name::of("5.json.tmp"), Some(Name::Waste));
    assert_eq!(Name::of("5.started.damaged"), Some(Name::Waste));
}
