//! Where tensors live, and how the threads that work on them treat denormal numbers.

use burn::tensor::Device;
use std::sync::Once;

/// A device that this build cannot open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no device {name:?} in this build; built in: {}", DEVICES.join(", "))]
pub struct UnknownDevice {
    name: String,
}

/// Names that [`open`] takes.
pub const DEVICES: &[&str] = &["auto", "cpu"];

/// Opens a device by name: `auto` is the best one built in, today the processor.
///
/// # Errors
/// If the name is unknown or its support is not compiled in; says what is.
pub fn open(name: &str) -> Result<Device, UnknownDevice> {
    match name {
        "auto" | "cpu" => Ok(Device::flex()),
        _ => Err(UnknownDevice { name: name.to_owned() }),
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

    #[test]
    fn only_what_is_built_in_can_be_opened() {
        assert!(open("auto").is_ok() && open("cpu").is_ok());
        let error = open("cuda:0").unwrap_err().to_string();
        assert_eq!(error, "there is no device \"cuda:0\" in this build; built in: auto, cpu");
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
