//! Where tensors live, and how the threads that work on them treat denormal numbers.
//!
//! Devices are made by their own constructors and never by `Device::default()`, which changes with the features of a build.

mod choice;
mod probe;

use burn::tensor::Device;
use choice::{Choice, Kind, Wish};
use std::sync::Once;

/// A device that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not a name of a device.
    #[error(
        "there is no device {name:?}: give auto, cpu, vulkan, metal or cuda, the last three with an index if you like: cuda:1"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// The features of this build are without it.
    #[error("device {name:?} is not in this build, which has {built_in}: {todo}")]
    NotBuiltIn {
        /// The name.
        name: String,
        /// Names that this build takes.
        built_in: String,
        /// What to do.
        todo: &'static str,
    },
    /// There is none, or it does not compute.
    #[error("device {name:?} does not work: {why}: {todo}")]
    Unusable {
        /// The name.
        name: String,
        /// What happened.
        why: String,
        /// What to do.
        todo: &'static str,
    },
}

/// A device that works.
#[derive(Debug)]
pub struct Found {
    /// The device.
    pub device: Device,
    /// Kind, index and what the driver calls it: `cpu`, or `vulkan:0 (NVIDIA H100)`.
    pub name: String,
    /// Kinds that `auto` tried before, each with why it is not that.
    pub passed_over: Vec<String>,
}

/// Whether this build knows a device of that name; does not try it.
///
/// # Errors
/// If the name is unknown, or its support is not compiled in: says which feature has it.
pub fn check(name: &str) -> Result<(), DeviceError> {
    choice::parse(name, &Kind::built_in()).map(drop)
}

/// Finds a device by name: `auto`, `cpu`, or `vulkan`, `metal`, `cuda` with or without `:INDEX`.
///
/// All but the processor must first compute something and give it back. `auto` takes the first of cuda, metal, vulkan that is built in and
/// does, or else the processor; a Vulkan that runs on the processor is passed over. A device that is named is that or an error.
///
/// # Errors
/// As [`check`], and if the device does not work: says what to do.
pub fn find(name: &str) -> Result<Found, DeviceError> {
    find_with(name, &Kind::built_in(), |wish| probe::guarded(probe::LIMIT, move || probe::connect(wish)))
}

/// As [`find`], and says in the log what was found.
///
/// # Errors
/// As [`find`].
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let found = find(name)?;
    for reason in &found.passed_over {
        tracing::warn!(reason, "a device of this build is not used");
    }
    tracing::info!(device = found.name, "device opened");
    Ok(found.device)
}

/// As [`find`], in a build that has these kinds, of which `attempt` tries all but the processor.
fn find_with(
    name: &str,
    built_in: &[Kind],
    attempt: impl Fn(Wish) -> Result<(Device, String), String>,
) -> Result<Found, DeviceError> {
    // not tried: that would start its threads before `prepare`
    let processor = |passed_over| Found { device: Device::flex(), name: Kind::Cpu.name().to_owned(), passed_over };
    match choice::parse(name, built_in)? {
        Choice::Named(Wish { kind: Kind::Cpu, .. }) => Ok(processor(Vec::new())),
        Choice::Named(wish) => match attempt(wish) {
            Ok((device, name)) => Ok(Found { device, name, passed_over: Vec::new() }),
            Err(why) => Err(DeviceError::Unusable { name: name.to_owned(), why, todo: wish.kind.how_to_mend() }),
        },
        Choice::Auto => {
            let mut passed_over = Vec::new();
            for &kind in built_in.iter().filter(|kind| **kind != Kind::Cpu) {
                match attempt(Wish { kind, index: None, software: false }) {
                    Ok((device, name)) => return Ok(Found { device, name, passed_over }),
                    Err(why) => passed_over.push(format!("{kind}: {why}")),
                }
            }
            Ok(processor(passed_over))
        }
    }
}

/// Prepares this thread and the pool of kernel threads for training; call it on the worker thread before any tensor.
///
/// `threads` limits the pool, whose default is one thread per core; many agents on one machine want 1. Only the first
/// call of a process can set it. Returns false if the pool was already running: its threads may be slow on denormals
/// then, results may differ in the last bits from those of other agents.
pub fn prepare(threads: Option<usize>) -> bool {
    static POOL: Once = Once::new();
    flush_denormals();
    let mut fresh = true;
    POOL.call_once(|| fresh = pool(threads).build_global().is_ok());
    fresh
}

/// A pool whose threads treat denormals as this one does; 0 threads stand for one per core.
fn pool(threads: Option<usize>) -> rayon::ThreadPoolBuilder {
    rayon::ThreadPoolBuilder::new().start_handler(|_| flush_denormals()).num_threads(threads.unwrap_or(0))
}

/// Makes this thread treat denormal numbers as zero.
///
/// Gradients that fade away pass through denormals, on which a processor is up to a hundred times slower.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // The control register has no safe interface.
fn flush_denormals() {
    const FLUSH_TO_ZERO: u32 = 1 << 15;
    const DENORMALS_ARE_ZERO: u32 = 1 << 6;
    let mut control = 0u32;
    // SAFETY: both instructions only move the control register to and from the four bytes of `control`. Rounding and
    // exception masks stay as they are; the compiler assumes no particular result for denormal operands at run time.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack));
        control |= FLUSH_TO_ZERO | DENORMALS_ARE_ZERO;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, readonly));
    }
}

/// Makes this thread treat denormal numbers as zero.
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)] // The control register has no safe interface.
fn flush_denormals() {
    const FLUSH_TO_ZERO: u64 = 1 << 24;
    let mut control: u64;
    // SAFETY: reads the control register and writes it back with one more bit; no memory is touched.
    unsafe {
        std::arch::asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack));
        control |= FLUSH_TO_ZERO;
        std::arch::asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack));
    }
}

/// Other processors keep their denormals: slower in rare cases, nothing else.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn flush_denormals() {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    /// An attempt that must not be made.
    fn untried(wish: Wish) -> Result<(Device, String), String> {
        panic!("tried {wish:?}")
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in
            ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:0:0", "cuda:70000", " auto", "auto:0"]
        {
            let error = find_with(name, &Kind::ALL, untried).unwrap_err();
            assert_eq!(error, DeviceError::Unknown { name: name.into() }, "{name:?}");
            assert!(error.to_string().contains("auto, cpu, vulkan, metal or cuda"), "{error}");
        }
    }

    #[test]
    fn a_name_gives_kind_and_index() {
        let wish = |kind, index| Ok(Choice::Named(Wish { kind, index, software: true }));
        for (name, kind, index) in [
            ("cpu", Kind::Cpu, None),
            ("cuda", Kind::Cuda, None),
            ("cuda:1", Kind::Cuda, Some(1)),
            ("vulkan:12", Kind::Vulkan, Some(12)),
            ("metal:0", Kind::Metal, Some(0)),
        ] {
            assert_eq!(choice::parse(name, &Kind::ALL), wish(kind, index), "{name}");
        }
        assert_eq!(choice::parse("auto", &Kind::ALL), Ok(Choice::Auto));
    }

    #[test]
    fn a_device_that_is_not_built_in_names_the_feature() {
        let error = |name| find_with(name, &[Kind::Cpu], untried).unwrap_err().to_string();
        assert_eq!(error("cuda:0"), "device \"cuda:0\" is not in this build, which has auto, cpu: build with `--features cuda`");
        assert!(error("vulkan").contains("--features gpu"), "{}", error("vulkan"));
        assert!(error("metal").contains("--features gpu"), "{}", error("metal"));
    }

    #[test]
    fn this_build_has_what_its_features_say() {
        assert!(check("auto").is_ok() && check("cpu").is_ok());
        assert_eq!(check("cuda").is_ok(), cfg!(feature = "cuda"));
        assert_eq!(check("vulkan").is_ok() || check("metal").is_ok(), cfg!(feature = "gpu"));
        assert_eq!(find("cpu").unwrap().device, Device::flex());
    }

    #[test]
    fn auto_takes_the_first_that_works_and_says_why_not_the_others() {
        let attempt = |wish: Wish| match wish {
            Wish { kind: Kind::Vulkan, index: None, software: false } => Ok((Device::flex(), "vulkan:0 (card)".to_owned())),
            Wish { kind, .. } => Err(format!("no {kind} here")),
        };
        let found = find_with("auto", &[Kind::Cuda, Kind::Vulkan, Kind::Cpu], attempt).unwrap();
        assert_eq!((found.name.as_str(), found.passed_over), ("vulkan:0 (card)", vec!["cuda: no cuda here".to_owned()]));
    }

    #[test]
    fn auto_falls_to_the_processor_and_says_so() {
        let panics = |wish: Wish| probe::guarded(probe::LIMIT, move || panic!("no {} library", wish.kind));
        let found = find_with("auto", &[Kind::Cuda, Kind::Vulkan, Kind::Cpu], panics).unwrap();
        assert_eq!((found.device, found.name.as_str()), (Device::flex(), "cpu"));
        assert_eq!(found.passed_over, ["cuda: no cuda library", "vulkan: no vulkan library"]);
        let found = find_with("auto", &[Kind::Cpu], untried).unwrap();
        assert_eq!((found.name.as_str(), found.passed_over.len()), ("cpu", 0));
    }

    #[test]
    fn a_named_device_that_does_not_work_is_an_error_and_not_the_processor() {
        let panics = |_| probe::guarded(probe::LIMIT, || panic!("libcuda is missing"));
        let error = find_with("cuda:1", &Kind::ALL, panics).unwrap_err();
        let DeviceError::Unusable { name, why, todo } = &error else { panic!("{error}") };
        assert_eq!((name.as_str(), why.as_str()), ("cuda:1", "libcuda is missing"));
        assert!(todo.contains("nvidia-smi") && error.to_string().ends_with(todo), "{error}");
    }

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn denormals_are_zero_on_prepared_threads() {
        let tiny = || black_box(f32::MIN_POSITIVE) * black_box(0.25);
        assert!(tiny() > 0.0, "the test thread already flushes");
        let flushed = std::thread::spawn(move || {
            prepare(None);
            // The global pool may be another test's, started before.
            let pool = pool(Some(2)).build().unwrap();
            (tiny(), pool.join(tiny, tiny))
        });
        assert_eq!(flushed.join().unwrap(), (0.0, (0.0, 0.0)));
    }
}
