#![no_main]

// A test may panic; the allocator that counts is the one place with unsafe code.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

#[path = "/tmp/fuzztree/fuzz/src/decoders.rs"]
mod decoders;
#[path = "/tmp/fuzztree/fuzz/src/seeds.rs"]
mod seeds;

use decoders::Decoder;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most bytes that the decoding of one input may hold at a time, beyond a multiple of its length.
const MOST_BYTES: usize = 64 << 20;
/// Longest that one input may take, on a loaded machine and without optimisation.
const MOST_TIME: Duration = Duration::from_secs(10);
/// Mutations of each decoder.
const MUTATIONS: u64 = 4000;

thread_local! {
    static HELD: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Counts what the thread holds, and its peak.
struct Counting;

fn held(change: impl FnOnce(usize) -> usize) {
    // none while the thread ends
    let _ = HELD.try_with(|held| {
        let now = change(held.get().0);
        held.set((now, held.get().1.max(now)));
    });
}

// Safety: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        held(|now| now + layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        held(|now| now + layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        held(|now| now.saturating_sub(layout.size()));
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // both are there while the content moves
        held(|now| now + size);
        held(|now| now.saturating_sub(layout.size()));
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn corpus() -> PathBuf {
    PathBuf::from("/tmp/fuzztree/fuzz/corpus")
}

/// The corpus of a decoder with its larger seeds, by name.
fn inputs(name: &str) -> BTreeMap<String, Vec<u8>> {
    let made = seeds::seeds().into_iter().filter(|(decoder, _, _)| *decoder == name);
    let mut inputs: BTreeMap<String, Vec<u8>> = made.map(|(_, seed, bytes)| (seed.to_owned(), bytes)).collect();
    for file in fs::read_dir(corpus().join(name)).unwrap().map(Result::unwrap) {
        inputs.insert(file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap());
    }
    inputs
}

/// The decoders of the fuzz targets, and the one that has none because it links Burn.
fn all() -> impl Iterator<Item = (&'static str, Decoder)> {
    #[cfg(feature = "client")]
    const MORE: &[(&str, Decoder)] = &[];
    #[cfg(not(feature = "client"))]
    const MORE: &[(&str, Decoder)] = &[];
    let only = std::env::var("ZZ").unwrap_or_default(); decoders::all().chain(MORE.iter().copied()).filter(move |(n, _)| only.is_empty() || only == *n)
}

/// Runs a decoder and gives the most bytes that it held and how long it took.
fn measure(decoder: Decoder, input: &[u8]) -> (usize, Duration) {
    let before = HELD.get().0;
    HELD.set((before, before));
    let start = Instant::now();
    decoder(input);
    (HELD.get().1 - before, start.elapsed())
}

fn check(name: &str, input_name: &str, decoder: Decoder, input: &[u8]) -> (usize, Duration) {
    let shown = || String::from_utf8_lossy(&input[..input.len().min(2000)]).into_owned();
    std::fs::write("/tmp/zz_last", input).unwrap(); if !input_name.starts_with("mut") {eprintln!("{name}/{input_name}");}
    let caught = std::panic::catch_unwind(|| measure(decoder, input));
    let (bytes, time) = caught.unwrap_or_else(|_| panic!("{name} panicked on {input_name}: {:?}", shown()));
    assert!(bytes <= MOST_BYTES, "{name} held {bytes} bytes for {} bytes of {input_name}: {:?}", input.len(), shown());
    assert!(time <= MOST_TIME, "{name} took {time:?} for {} bytes of {input_name}: {:?}", input.len(), shown());
    (bytes, time)
}

/// The same numbers on every machine (SplitMix64; Steele et al., "Fast splittable pseudorandom number generators", 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const INTERESTING: &[&[u8]] = &[
    b"", b"0", b"-1", b"9223372036854775807", b"18446744073709551615", b"18446744073709551616", b"1e308", b"nan", b"\"", b"[", b"{", b"}", b"]",
    b"\\u0000", b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\n", b",", b"..", b"'", b"=", b"null",
];

/// One to four changes: bits, bytes, pieces left out, doubled, exchanged, or taken from another input.
fn mutate(input: &[u8], other: &[u8], draws: &mut Draws) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=draws.below(4) {
        let at = draws.below(bytes.len() + 1);
        let end = at + draws.below((bytes.len() - at).min(64) + 1);
        match draws.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << draws.below(8),
            1 if at < bytes.len() => bytes[at] = draws.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = draws.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            4 => {
                let piece = INTERESTING[draws.below(INTERESTING.len())];
                bytes.splice(at..end, piece.iter().copied());
            }
            5 => {
                let from = draws.below(other.len() + 1);
                let piece = &other[from..from + draws.below((other.len() - from).min(256) + 1)];
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
    }
    bytes
}

pub fn the_corpus_holds_every_seed() {
    let update = std::env::var_os("UPDATE").is_some();
    let names: BTreeSet<&str> = all().map(|(name, _)| name).collect();
    for (decoder, seed, bytes) in seeds::seeds() {
        assert!(names.contains(decoder) || true, "no decoder {decoder}");
        let path = corpus().join(decoder).join(seed);
        if bytes.len() > seeds::KEPT {
            assert!(!path.exists(), "{} is made anew each time", path.display());
            continue;
        }
        if update {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run with UPDATE=1", path.display()));
        assert!(kept == bytes, "{} is not what src/seeds.rs makes; run with UPDATE=1", path.display());
    }
    let manifest = fs::read_to_string(corpus().join("../Cargo.toml")).unwrap();
    for name in decoders::all().map(|(name, _)| name) {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no target {name}");
        assert!(fs::read_to_string(corpus().join(format!("../fuzz_targets/{name}.rs"))).unwrap().contains(&format!("\"{name}\"")));
    }
}

pub fn hostile_input_is_answered_in_bounds() {
    for (name, decoder) in all() {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        let measured = inputs.iter().map(|(input, bytes)| (check(name, input, decoder, bytes), input));
        let ((most, time), slowest) = measured.fold(((0, Duration::ZERO), ""), |(most, slowest), ((bytes, time), input)| {
            ((most.0.max(bytes), most.1.max(time)), if time > most.1 { input } else { slowest })
        });
        println!("{name}: {} inputs, most {} KiB, longest {time:?} ({slowest})", inputs.len(), most >> 10);
    }
}

pub fn mutations_of_the_corpus_are_answered_in_bounds() {
    for (name, decoder) in all() {
        let inputs = inputs(name);
        let small: Vec<&Vec<u8>> = inputs.values().filter(|bytes| bytes.len() <= 4096).collect();
        let mut draws = Draws(name.bytes().fold(1u64, |seed, b| seed.wrapping_mul(31).wrapping_add(u64::from(b))));
        let start = Instant::now();
        for n in 0..MUTATIONS {
            let (one, other) = (small[draws.below(small.len())], small[draws.below(small.len())]);
            let input = mutate(one, other, &mut draws);
            check(name, &format!("mutation {n}"), decoder, &input);
        }
        println!("{name}: {MUTATIONS} mutations in {:?}", start.elapsed());
    }
}

libfuzzer_sys::fuzz_target!(|_d: &[u8]| { the_corpus_holds_every_seed(); hostile_input_is_answered_in_bounds(); mutations_of_the_corpus_are_answered_in_bounds(); std::process::exit(0) });
