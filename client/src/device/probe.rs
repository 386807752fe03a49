//! Whether a device works, found out by computing on it: one without hardware or driver is made without complaint, and
//! panics when a result is read back.

use super::choice::{Kind, Wish};
#[cfg(all(feature = "gpu", not(target_os = "macos")))]
use burn::tensor::DeviceKind;
#[cfg(any(feature = "gpu", feature = "cuda"))]
use burn::tensor::DeviceType;
use burn::tensor::{Device, Tensor, TensorData};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Longest time that a device may take for its first result. Drivers start and compile kernels within it.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Runs `work` on a thread of its own. A panic is an error, and so is `work` that takes longer than `limit`; its thread is
/// then left behind, for nothing can end it.
pub(super) fn guarded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (sender, receiver) = mpsc::channel();
    let watched = move || {
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(reason(panic.as_ref())));
        // nobody listens any more when the time is over
        drop(sender.send(outcome));
    };
    let thread = thread::Builder::new().name("device probe".into()).spawn(watched);
    thread.map_err(|e| format!("there is no thread to try it on: {e}"))?;
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(format!("no result within {limit:?}")))
}

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

/// The device that is wished for, and what to call it, if it computes what it should.
pub(super) fn connect(wish: Wish) -> Result<(Device, String), String> {
    let Wish { kind, index, software } = wish;
    let all = devices(kind);
    let unfit = if software { None } else { disguised(kind) };
    let fits = |device: &Device| unfit.as_ref() != Some(device);
    let place = index.or_else(|| all.iter().position(fits)).unwrap_or(0);
    let device = match all.get(place) {
        Some(device) if fits(device) => device.clone(),
        Some(_) => return Err(format!("the only {kind} device is a processor in disguise")),
        None if all.is_empty() => return Err(format!("no {kind} device was found")),
        None => return Err(format!("there is no {kind}:{place}; the last one is {kind}:{}", all.len() - 1)),
    };
    compute(&device)?;
    let name = label(&device).map_or_else(|| format!("{kind}:{place}"), |card| format!("{kind}:{place} ({card})"));
    Ok((device, name))
}

/// Devices of a kind, graphics cards before processors that play one; none without a driver.
fn devices(kind: Kind) -> Vec<Device> {
    match kind {
        Kind::Cpu => vec![Device::flex()],
        #[cfg(feature = "cuda")]
        Kind::Cuda => Device::enumerate(DeviceType::Cuda).to_vec(),
        #[cfg(all(feature = "gpu", target_os = "macos"))]
        Kind::Metal => Device::enumerate(DeviceType::Metal).to_vec(),
        #[cfg(all(feature = "gpu", not(target_os = "macos")))]
        Kind::Vulkan => Device::enumerate(DeviceType::Vulkan).to_vec(),
        // kinds that are not built in
        _ => Vec::new(),
    }
}

/// The Vulkan that runs on the processor, slower than the processor by itself; the other kinds have no such thing.
#[cfg(all(feature = "gpu", not(target_os = "macos")))]
fn disguised(kind: Kind) -> Option<Device> {
    (kind == Kind::Vulkan).then(|| Device::vulkan(DeviceKind::Cpu))
}

/// No kind of this build runs on the processor in disguise.
#[cfg(not(all(feature = "gpu", not(target_os = "macos"))))]
fn disguised(_: Kind) -> Option<Device> {
    None
}

/// What the driver calls the card.
#[cfg(any(feature = "gpu", feature = "cuda"))]
fn label(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name.to_string()).filter(|name| !name.is_empty())
}

/// A processor does not say what it is.
#[cfg(not(any(feature = "gpu", feature = "cuda")))]
fn label(_: &Device) -> Option<String> {
    None
}

/// Computes `A·B + exp(0)` on the device and compares what is read back.
///
/// Entries and sums are whole numbers below 2^11, which are exact in every format that a device may multiply in. The
/// exponential is there because CUDA takes it from a file of the toolkit, which may be missing.
fn compute(device: &Device) -> Result<(), String> {
    const N: usize = 16;
    let a: Vec<f32> = (0..N * N).map(|i| ((i / N + i % N) % 5) as f32).collect();
    let b: Vec<f32> = (0..N * N).map(|i| ((i / N * (i % N) + 1) % 7) as f32).collect();
    let want: Vec<f32> = (0..N * N).map(|i| 1.0 + (0..N).map(|k| a[i / N * N + k] * b[k * N + i % N]).sum::<f32>()).collect();
    let tensor = |values: Vec<f32>| Tensor::<2>::from_data(TensorData::new(values, [N, N]), device); // [N, N]
    let ones = tensor(vec![0.0; N * N]).exp(); // [N, N]
    let sum = tensor(a).matmul(tensor(b)) + ones; // [N, N]
    let got = sum.into_data().convert::<f32>().try_to_vec::<f32>().map_err(|e| format!("its result cannot be read: {e:?}"))?;
    if got == want { Ok(()) } else { Err("it computes wrongly: a product of matrices is not what it should be".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let broken = |text: &'static str| guarded(LIMIT, move || -> Result<(), String> { panic!("{text}") });
        assert_eq!(broken("no driver"), Err("no driver".into()));
        let odd = guarded(LIMIT, || -> Result<(), String> { std::panic::panic_any(7) });
        assert_eq!(odd, Err("it panicked".into()));
        assert_eq!(guarded(LIMIT, || Ok(7)), Ok(7));
    }

    #[test]
    fn a_device_that_never_answers_is_an_error() {
        let (stop, stopped) = mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        let outcome = guarded(limit, move || stopped.recv().map_err(|e| e.to_string()));
        assert_eq!(outcome, Err("no result within 20ms".into()));
        drop(stop);
    }

    #[test]
    fn a_device_that_works_computes() {
        assert_eq!(compute(&Device::flex()), Ok(()));
    }

    #[test]
    fn an_index_beyond_the_list_says_where_it_ends() {
        let wish = Wish { kind: Kind::Cpu, index: Some(3), software: true };
        assert_eq!(connect(wish).unwrap_err(), "there is no cpu:3; the last one is cpu:0");
    }
}
