use super::*;
use std::sync::Barrier;
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
