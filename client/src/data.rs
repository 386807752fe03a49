//! Data of a site: files become named modalities with presence bits, and a data set is cut into members.
//!
//! A data set is a folder with a `dataset.toml` that says which file holds what ([`Dataset`]). A partition says which
//! rows are whose, and which modalities are taken away from them ([`Manifest`]); a simulated federation is a data set
//! and a manifest. Nothing here knows Burn, the network or the clock.

mod dataset;
mod error;
mod partition;
mod reader;
mod samples;

pub use dataset::{BUILTIN, Card, Dataset};
pub use error::DataError;
pub use partition::{
    DataSpec, DatasetRef, EVALUATOR, Lack, MANIFEST_VERSION, MAX_DRAWS, Manifest, MemberRows, MemberSplits, Pattern, Scheme,
    Split, Spread, Summary,
};
pub use reader::extensions;
pub use samples::{Modality, Samples};
