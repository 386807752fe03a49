//! Reading pictures in several threads. Which thread reads which picture makes no difference to what comes out.

use super::super::reader::{Encoded, decode};
use super::builtin::Folder;
use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Largest file of one picture, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Most threads.
const MAX_THREADS: usize = 16;

/// Planes `[3, size, size]`, or why there are none.
type Decoded = Result<Vec<f32>, String>;

/// Decodes `pictures` and hands each to `place`, with its index, in any order.
pub(super) fn decode_all(
    folder: &Folder<'_>,
    pictures: &[Encoded<'_>],
    size: usize,
    threads: usize,
    mut place: impl FnMut(usize, Decoded),
) {
    let next = AtomicUsize::new(0);
    let work = |done: &mut dyn FnMut(usize, Decoded) -> bool| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(picture) = pictures.get(at) else { break };
            if !done(at, bytes(folder, picture).and_then(|bytes| decode(&bytes, size))) {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        // bounded: decoded pictures are large, and placing them may be slower than making them
        let (send, receive) = sync_channel(2 * threads.max(1));
        for _ in 1..threads.min(pictures.len()) {
            let send = send.clone();
            let work = &work;
            // one that cannot be started leaves its share to the others
            let _ = std::thread::Builder::new().name("pictures".into()).spawn_scoped(scope, move || {
                work(&mut |at, decoded| send.send((at, decoded)).is_ok());
            });
        }
        drop(send);
        receive.iter().for_each(|(at, decoded)| place(at, decoded));
    });
    // without any thread this one does it all
    work(&mut |at, decoded| {
        place(at, decoded);
        true
    });
}

/// Threads to decode with.
pub(super) fn threads() -> usize {
    // one more than there are workers: this one only places
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS) + 1
}

fn bytes<'a>(folder: &Folder<'_>, picture: &'a Encoded<'_>) -> Result<Cow<'a, [u8]>, String> {
    match picture {
        Encoded::File(path) => folder.read_up_to(path, MAX_FILE).map(Cow::Owned).map_err(|error| error.to_string()),
        Encoded::Bytes { bytes, .. } if bytes.len() as u64 > MAX_FILE => {
            Err(format!("has {} bytes; at most {MAX_FILE} are read", bytes.len()))
        }
        Encoded::Bytes { bytes, .. } => Ok(Cow::Borrowed(bytes)),
    }
}
