//! Names of devices: `auto`, or a kind with an index if there are several of it.

use super::DeviceError;
use std::fmt;

/// What runs the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Cuda,
    Metal,
    Vulkan,
    Cpu,
}

/// A device of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) kind: Kind,
    /// Place in the list of such devices; none is the first.
    pub(super) index: Option<usize>,
    /// Whether a processor that plays a graphics card will do.
    pub(super) software: bool,
}

/// What a name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The best one that works.
    Auto,
    /// This one and no other.
    Named(Wish),
}

impl Kind {
    /// In the order in which `auto` tries them.
    pub(super) const ALL: [Kind; 4] = [Kind::Cuda, Kind::Metal, Kind::Vulkan, Kind::Cpu];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Cuda => "cuda",
            Kind::Metal => "metal",
            Kind::Vulkan => "vulkan",
            Kind::Cpu => "cpu",
        }
    }

    /// Whether the features of this build have it.
    fn is_built_in(self) -> bool {
        match self {
            Kind::Cuda => cfg!(feature = "cuda"),
            Kind::Metal => cfg!(all(feature = "gpu", target_os = "macos")),
            Kind::Vulkan => cfg!(all(feature = "gpu", not(target_os = "macos"))),
            Kind::Cpu => true,
        }
    }

    /// Those of this build, the best first.
    pub(super) fn built_in() -> Vec<Kind> {
        Self::ALL.into_iter().filter(|kind| kind.is_built_in()).collect()
    }

    /// How to get a build that has it.
    pub(super) fn how_to_build(self) -> &'static str {
        match self {
            Kind::Cuda => "build with `--features cuda`",
            Kind::Metal if !cfg!(target_os = "macos") => "it is for macOS; here, build with `--features gpu` and name vulkan",
            Kind::Vulkan if cfg!(target_os = "macos") => "not for macOS; here, build with `--features gpu` and name metal",
            Kind::Metal | Kind::Vulkan => "build with `--features gpu`",
            Kind::Cpu => "every build has it",
        }
    }

    /// What to look at if it does not work.
    pub(super) fn how_to_mend(self) -> &'static str {
        match self {
            Kind::Cuda => {
                "install NVIDIA's driver (`nvidia-smi` lists the cards) and a CUDA toolkit, and let CUDA_PATH name the toolkit; \
                 or name cpu"
            }
            Kind::Metal => "see in the system report whether the graphics card has Metal; or name cpu",
            Kind::Vulkan => "install the card's Vulkan driver (`vulkaninfo --summary` lists what it finds); or name cpu",
            Kind::Cpu => "see the log",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `name` asks for, in a build that has these kinds.
pub(super) fn parse(name: &str, built_in: &[Kind]) -> Result<Choice, DeviceError> {
    if name == "auto" {
        return Ok(Choice::Auto);
    }
    let unknown = || DeviceError::Unknown { name: name.to_owned() };
    let (word, index) = match name.split_once(':') {
        None => (name, None),
        Some((word, digits)) => (word, Some(number(digits).ok_or_else(unknown)?)),
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word).ok_or_else(unknown)?;
    if kind == Kind::Cpu && index.is_some() {
        return Err(unknown());
    }
    if !built_in.contains(&kind) {
        let names: Vec<&str> = std::iter::once("auto").chain(built_in.iter().map(|kind| kind.name())).collect();
        let (name, built_in) = (name.to_owned(), names.join(", "));
        return Err(DeviceError::NotBuiltIn { name, built_in, todo: kind.how_to_build() });
    }
    Ok(Choice::Named(Wish { kind, index, software: true }))
}

/// Digits and nothing else: a sign is no part of an index.
fn number(digits: &str) -> Option<usize> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<u16>().ok().map(usize::from) } else { None }
}
