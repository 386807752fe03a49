use super::*;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tessera_common::aggregate::Sink;
use tessera_common::param::{ParamSet, Source, Tensor};

const MAX: u64 = 1 << 20;

/// Every test below holds for both kinds.
fn both(test: impl Fn(Blobs)) {
    test(Blobs::in_memory(MAX));
    let dir = TempDir::new().unwrap();
    test(Blobs::in_dir(dir.path(), MAX).unwrap());
}

fn put(blobs: &Blobs, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let mut upload = blobs.begin(digest, bytes.len() as u64, 0).unwrap();
    upload.append(bytes).unwrap();
    upload.finish().unwrap();
    digest
}

fn bytes(n: usize, salt: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + salt) as u8).collect()
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    both(|blobs| {
        let content = bytes(3000, 1);
        let digest = Digest::of(&content);
        let mut upload = blobs.begin(digest, 3000, 0).unwrap();
        upload.append(&content[..1234]).unwrap();
        drop(upload);
        assert_eq!(blobs.status(&digest).unwrap(), BlobStatus { offset: 1234, complete: false });
        assert!(matches!(blobs.raw(&digest), Err(BlobError::Missing(_))));

        for wrong in [0, 1233, 1235] {
            let error = blobs.begin(digest, 3000, wrong).unwrap_err();
            assert!(matches!(error, BlobError::Offset { expected: 1234, found, .. } if found == wrong), "{error}");
        }
        let mut upload = blobs.begin(digest, 3000, 1234).unwrap();
        upload.append(&content[1234..]).unwrap();
        upload.finish().unwrap();
        assert_eq!(blobs.status(&digest).unwrap(), BlobStatus { offset: 3000, complete: true });
        assert_eq!(blobs.read(&digest).unwrap(), content);
        assert_eq!(blobs.part_len(&digest).unwrap(), 0);
    });
}

#[test]
fn an_unfinished_upload_keeps_what_came_and_says_how_much_is_missing() {
    both(|blobs| {
        let digest = Digest::of(b"whatever");
        let mut upload = blobs.begin(digest, 100, 0).unwrap();
        upload.append(&[7; 40]).unwrap();
        let error = upload.finish().unwrap_err();
        assert!(error.to_string().contains("only 40 of 100 bytes"), "{error}");
        assert_eq!(blobs.status(&digest).unwrap(), BlobStatus { offset: 40, complete: false });
        // announced shorter than what is there: the part is of no use
        let error = blobs.begin(digest, 30, 40).unwrap_err();
        assert!(matches!(error, BlobError::Offset { expected: 0, .. }), "{error}");
        assert_eq!(blobs.status(&digest).unwrap().offset, 0);
    });
}

#[test]
fn bytes_of_another_digest_are_thrown_away() {
    both(|blobs| {
        let digest = Digest::of(b"announced");
        let mut upload = blobs.begin(digest, 5, 0).unwrap();
        upload.append(b"other").unwrap();
        let error = upload.finish().unwrap_err();
        assert!(matches!(error, BlobError::Mismatch { found, .. } if found == Digest::of(b"other")), "{error}");
        assert_eq!(blobs.status(&digest).unwrap(), BlobStatus { offset: 0, complete: false });
        assert!(matches!(blobs.len(&Digest::of(b"other")), Err(BlobError::Missing(_))));
        // also when the wrong bytes came in an earlier piece
        let mut upload = blobs.begin(digest, 9, 0).unwrap();
        upload.append(b"XXXX").unwrap();
        drop(upload);
        let mut upload = blobs.begin(digest, 9, 4).unwrap();
        upload.append(b"unced").unwrap();
        assert!(matches!(upload.finish(), Err(BlobError::Mismatch { .. })));
        assert_eq!(blobs.status(&digest).unwrap().offset, 0);
    });
}

#[test]
fn too_much_is_refused() {
    both(|blobs| {
        let digest = Digest::of(b"x");
        let error = blobs.begin(digest, MAX + 1, 0).unwrap_err();
        assert!(matches!(error, BlobError::TooLarge { limit: MAX, .. }), "{error}");
        let mut upload = blobs.begin(digest, 10, 0).unwrap();
        upload.append(&[0; 8]).unwrap();
        assert!(matches!(upload.append(&[0; 3]), Err(BlobError::Overflow { announced: 10, .. })));
        drop(upload);
        assert_eq!(blobs.status(&digest).unwrap().offset, 0);
    });
}

#[test]
fn uploads_of_the_same_blob_at_once_do_not_mix() {
    both(|blobs| {
        let content = bytes(200_000, 3);
        let digest = Digest::of(&content);
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for step in [1000, 777, 4096, 100_000] {
                let (blobs, content, start) = (&blobs, &content, &start);
                scope.spawn(move || {
                    let mut upload = blobs.begin(digest, content.len() as u64, 0).unwrap();
                    start.wait();
                    content.chunks(step).for_each(|c| upload.append(c).unwrap());
                    upload.finish().unwrap();
                });
            }
        });
        assert_eq!(blobs.read(&digest).unwrap(), content);
    });
}

#[test]
fn only_one_upload_takes_the_part() {
    both(|blobs| {
        let content = bytes(100, 5);
        let digest = Digest::of(&content);
        let mut upload = blobs.begin(digest, 100, 0).unwrap();
        upload.append(&content[..60]).unwrap();
        drop(upload);
        let first = blobs.begin(digest, 100, 60).unwrap();
        let error = blobs.begin(digest, 100, 60).unwrap_err();
        assert!(matches!(error, BlobError::Offset { expected: 0, .. }), "{error}");
        // a shorter one that breaks off does not replace the longer
        let mut second = blobs.begin(digest, 100, 0).unwrap();
        second.append(&content[..10]).unwrap();
        drop(first);
        drop(second);
        assert_eq!(blobs.status(&digest).unwrap().offset, 60);
    });
}

#[test]
fn a_writer_leaves_a_blob_or_nothing() {
    both(|blobs| {
        let mut set = ParamSet::new();
        set.insert("param/a/w", Tensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        let encoded = set.to_bytes();
        let mut abandoned = blobs.writer().unwrap();
        abandoned.write(b"half").unwrap();
        drop(abandoned);
        let mut writer = blobs.writer().unwrap();
        encoded.chunks(7).for_each(|c| writer.write(c).unwrap());
        assert_eq!(writer.finish().unwrap(), set.digest());
        assert_eq!(blobs.read(&set.digest()).unwrap(), encoded);
        if let Place::Dir(dir) = &blobs.inner.place {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing but the blob is left");
        }
    });
}

#[test]
fn tensors_are_read_in_pieces_and_within_their_bounds() {
    both(|blobs| {
        let mut set = ParamSet::new();
        set.insert("param/a/w", Tensor::f32(&[4], &[1.0, 2.0, 3.0, 4.0]));
        set.insert("param/b/w", Tensor::f32(&[1], &[9.0]));
        let digest = put(&blobs, &set.to_bytes());
        let blob = blobs.open(&digest).unwrap();
        assert_eq!(blob.layout(), &set.layout());
        let mut out = [0; 8];
        blob.read("param/a/w", 4, &mut out).unwrap();
        assert_eq!(out, [2.0f32.to_le_bytes(), 3.0f32.to_le_bytes()].concat()[..]);
        assert!(blob.read("param/a/w", 12, &mut out).unwrap_err().contains("ends before"), "not into the next tensor");
        assert!(blob.read("param/c/w", 0, &mut out).unwrap_err().contains("there is no tensor"));
        assert_eq!(blob.fault(), None, "a question for what is not there is no fault of the disk");

        let raw = blobs.raw(&digest).unwrap();
        assert_eq!(raw.chunk(raw.len() - 4, 100).unwrap(), 9.0f32.to_le_bytes()[..]);
        assert!(raw.chunk(raw.len(), 100).unwrap().is_empty());
        assert!(raw.read(raw.len() - 2, &mut out).is_err());
    });
}

#[test]
fn more_readers_than_files_may_be_open() {
    let dir = TempDir::new().unwrap();
    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    let digest = put(&blobs, &ParamSet::new().to_bytes());
    let readers: Vec<Raw> = (0..600).map(|_| blobs.raw(&digest).unwrap()).collect();
    assert!(blobs.inner.open_files.load(Ordering::Relaxed) <= 256);
    assert!(readers.iter().all(|r| r.chunk(0, 100).unwrap() == ParamSet::new().to_bytes()));
    drop(readers);
    assert_eq!(blobs.inner.open_files.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_no_parameter_set_is_refused_with_the_reason() {
    both(|blobs| {
        for (content, expected) in [
            (b"short".to_vec(), "5 bytes are no parameter set"),
            (bytes(64, 0), "header length"),
            ([&[200, 0, 0, 0, 0, 0, 0, 0][..], b"{}"].concat(), "the header asks for 208 bytes, there are 10"),
            ([&[8, 0, 0, 0, 0, 0, 0, 0][..], b"{\"a\": 1}"].concat(), "the header is not valid"),
            ([&[3, 0, 0, 0, 0, 0, 0, 0][..], b"{} "].concat(), "canonical"),
        ] {
            let error = blobs.open(&put(&blobs, &content)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    });
}

#[test]
fn a_new_process_goes_on_with_broken_uploads_and_clears_the_rest() {
    let dir = TempDir::new().unwrap();
    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    let content = bytes(50, 9);
    let digest = Digest::of(&content);
    let mut upload = blobs.begin(digest, 50, 0).unwrap();
    upload.append(&content[..20]).unwrap();
    // a killed process drops nothing
    std::mem::forget(upload);
    std::mem::forget(blobs.writer().unwrap());
    let mut shorter = blobs.begin(digest, 50, 0).unwrap();
    shorter.append(&content[..10]).unwrap();
    std::mem::forget(shorter);

    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mut upload = blobs.begin(digest, 50, 20).unwrap();
    upload.append(&content[20..]).unwrap();
    upload.finish().unwrap();
    assert_eq!(blobs.read(&digest).unwrap(), content);
}

/// The file of a blob, as it was written so long ago.
fn age(blobs: &Blobs, name: &str, age: Duration) {
    let Place::Dir(dir) = &blobs.inner.place else { return };
    let file = File::options().write(true).open(dir.join(name)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// As if everything had come so long ago.
fn age_all(blobs: &Blobs, by: Duration) {
    match &blobs.inner.place {
        Place::Dir(dir) => {
            for entry in fs::read_dir(dir).unwrap() {
                age(blobs, entry.unwrap().file_name().to_str().unwrap(), by);
            }
        }
        Place::Memory(memory) => {
            let mut memory = lock(memory);
            memory.complete.values_mut().for_each(|held| held.at -= by);
            memory.parts.values_mut().for_each(|held| held.at -= by);
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn corrupt(error: BlobError) -> (Digest, Digest, PathBuf) {
    let BlobError::Corrupt { digest, found, put_aside } = error else { panic!("{error}") };
    (digest, found, put_aside)
}

#[test]
fn bytes_that_changed_on_the_disk_are_found_and_the_file_is_put_aside() {
    let dir = TempDir::new().unwrap();
    let content = ParamSet::new().to_bytes();
    let digest = put(&Blobs::in_dir(dir.path(), MAX).unwrap(), &content);
    let path = dir.path().join(digest.to_string());
    let mut wrong = content.clone();
    for at in [0, content.len() - 1] {
        wrong.clone_from(&content);
        wrong[at] ^= 1;
        fs::write(&path, &wrong).unwrap();
        // a new process knows nothing of the file
        let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
        let error = blobs.open_verified(&digest).unwrap_err();
        let text = error.to_string();
        let (named, found, aside) = corrupt(error);
        assert_eq!((named, found), (digest, Digest::of(&wrong)));
        assert_eq!(fs::read(&aside).unwrap(), wrong, "never removed");
        for part in [digest.to_string(), found.to_string(), aside.display().to_string(), "put back an intact copy".into()] {
            assert!(text.contains(&part), "{text}");
        }
        assert!(!path.exists());
        assert_eq!(blobs.status(&digest).unwrap(), BlobStatus { offset: 0, complete: false }, "it can be sent again");
        assert_eq!(corrupt(blobs.verify(&digest).unwrap_err()), (digest, found, aside), "said again, until it is back");
        fs::write(&path, &content).unwrap();
        blobs.verify(&digest).unwrap();
    }
    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    assert_eq!(blobs.quarantined(), [digest.to_string(), format!("{digest}.2")]);
    assert!(matches!(blobs.verify(&Digest::of(b"never here")), Err(BlobError::Missing(_))));
}

#[test]
fn a_file_is_read_once_until_another_takes_its_place() {
    let dir = TempDir::new().unwrap();
    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    let content = bytes(5000, 3);
    let digest = put(&blobs, &content);
    let path = dir.path().join(digest.to_string());
    let known = |blobs: &Blobs| lock(&blobs.inner.verified).holds(&digest, Identity::of(&File::open(&path).unwrap()).unwrap());
    assert!(known(&blobs), "it was hashed while it came");
    blobs.touch(&digest).unwrap();
    assert!(known(&blobs), "touching does not make it another file");

    let fresh = Blobs::in_dir(dir.path(), MAX).unwrap();
    assert!(!known(&fresh));
    fresh.touch(&digest).unwrap();
    assert!(!known(&fresh), "touching is not checking");
    fresh.verify(&digest).unwrap();
    assert!(known(&fresh));
    // the same length at another time
    fs::write(&path, bytes(5000, 4)).unwrap();
    age(&fresh, &digest.to_string(), HOUR);
    assert_eq!(corrupt(fresh.verify(&digest).unwrap_err()).0, digest);

    let mut writer = fresh.writer().unwrap();
    writer.write(&content).unwrap();
    assert_eq!(writer.finish().unwrap(), digest);
    assert!(known(&fresh), "a writer hashes too");
    let memory = Blobs::in_memory(MAX);
    let digest = put(&memory, &content);
    memory.verify(&digest).unwrap();
    assert!(matches!(memory.verify(&Digest::of(b"x")), Err(BlobError::Missing(_))));
    assert!(memory.quarantined().is_empty());
}

#[test]
fn what_nobody_needs_is_swept_away_once_it_is_old() {
    both(|blobs| {
        let [live, old, touched, part] = [1, 2, 3, 4].map(|salt| bytes(100 + salt, salt));
        let [live, old, touched] = [live, old, touched].map(|content| put(&blobs, &content));
        let part_digest = Digest::of(&part);
        let mut upload = blobs.begin(part_digest, 200, 0).unwrap();
        upload.append(&part[..60]).unwrap();
        drop(upload);
        let needed = BTreeSet::from([live]);
        assert_eq!(blobs.sweep(&needed, HOUR, HOUR).unwrap(), Swept { removed: 0, bytes: 0, kept: 2 }, "all too young");

        age_all(&blobs, 2 * HOUR);
        blobs.touch(&touched).unwrap();
        blobs.touch(&Digest::of(b"not here")).unwrap();
        assert_eq!(blobs.sweep(&needed, HOUR, 3 * HOUR).unwrap(), Swept { removed: 1, bytes: 102, kept: 1 });
        assert!(blobs.len(&live).is_ok() && blobs.len(&touched).is_ok());
        assert!(matches!(blobs.len(&old), Err(BlobError::Missing(_))));
        assert_eq!(blobs.status(&part_digest).unwrap().offset, 60, "its agent may come back");

        age_all(&blobs, 2 * HOUR);
        blobs.touch(&touched).unwrap();
        assert_eq!(blobs.sweep(&needed, HOUR, HOUR).unwrap(), Swept { removed: 1, bytes: 60, kept: 1 });
        assert_eq!(blobs.status(&part_digest).unwrap().offset, 0);
        assert_eq!(blobs.sweep(&BTreeSet::new(), Duration::ZERO, HOUR).unwrap(), Swept { removed: 2, bytes: 204, kept: 0 });
    });
}

#[test]
fn only_our_files_are_swept_away() {
    let dir = TempDir::new().unwrap();
    let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
    let digest = Digest::of(b"x");
    let ours = [format!("{digest}"), format!("{digest}.part"), "new.7.tmp".into()];
    let others = ["notes.txt".into(), "x.part".into(), "x.tmp".into(), format!("{digest}.7.up"), format!("{digest}.old")];
    ours.iter().chain(&others).for_each(|name| fs::write(dir.path().join(name), b"1234").unwrap());
    age_all(&blobs, 2 * HOUR);
    // put aside, and a folder under the name of a blob
    fs::create_dir(dir.path().join("quarantine")).unwrap();
    fs::write(dir.path().join("quarantine").join(digest.to_string()), b"x").unwrap();
    fs::create_dir(dir.path().join(Digest::of(b"folder").to_string())).unwrap();
    assert_eq!(blobs.sweep(&BTreeSet::new(), HOUR, HOUR).unwrap(), Swept { removed: 3, bytes: 12, kept: 0 });
    assert!(ours.iter().all(|name| !dir.path().join(name).exists()));
    assert!(others.iter().all(|name| dir.path().join(name).exists()));
    assert_eq!(blobs.quarantined(), [digest.to_string()]);
    assert!(dir.path().join(Digest::of(b"folder").to_string()).exists());
}

/// Stops a sweep where a kill could, at every file and on both sides of its removal.
#[cfg(debug_assertions)]
#[test]
fn a_sweep_that_is_cut_short_leaves_a_valid_folder() {
    let test = std::thread::current().id();
    for (place, most) in [("coordinator/gc-before-remove", 4), ("coordinator/gc-after-remove", 4)] {
        for stop_at in 1..=most {
            let dir = TempDir::new().unwrap();
            let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
            let all: Vec<Digest> = (0..6).map(|salt| put(&blobs, &bytes(500, salt))).collect();
            let live = BTreeSet::from([all[0], all[1]]);
            age_all(&blobs, HOUR);
            let calls = AtomicUsize::new(0);
            fail::cfg_callback(place, move || {
                // other tests sweep too
                if std::thread::current().id() == test && calls.fetch_add(1, Ordering::Relaxed) + 1 == stop_at {
                    std::panic::panic_any("stopped here");
                }
            })
            .unwrap();
            let outcome = std::panic::catch_unwind(|| blobs.sweep(&live, HOUR, HOUR));
            fail::remove(place);
            assert!(outcome.is_err(), "{place} {stop_at}");

            let blobs = Blobs::in_dir(dir.path(), MAX).unwrap();
            let left = all.iter().filter(|digest| blobs.len(digest).is_ok()).count();
            let removed = if place.contains("before") { stop_at - 1 } else { stop_at };
            assert_eq!(left, 6 - removed, "{place} {stop_at}");
            all.iter().filter(|digest| blobs.len(digest).is_ok()).for_each(|digest| blobs.verify(digest).unwrap());
            assert_eq!(blobs.sweep(&live, HOUR, HOUR).unwrap().removed, 4 - removed as u64, "the next one goes on");
            live.iter().for_each(|digest| blobs.verify(digest).unwrap());
        }
    }
}
