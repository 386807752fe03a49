//! A data set is cut into the members of a simulated federation, and modalities are taken away from them.
//!
//! In this order: rows without any of the chosen modalities are left out; the test rows are drawn ([`Split`]); the
//! others are cut into members ([`Scheme`]); each member sets some aside ([`DataSpec::held_out`]); modalities are
//! taken from the rows that train ([`Pattern`]), and a row that has none left is discarded and not counted. Test and
//! held-out rows keep what they have by nature. Everything is drawn from streams of the seed, so that the same data
//! set, spec and seed give the same [`Manifest`], byte for byte.

mod manifest;
mod missing;
mod scheme;
mod spec;
mod split;
mod summary;
#[cfg(test)]
mod tests;

pub use manifest::{DatasetRef, EVALUATOR, MANIFEST_VERSION, Manifest, MemberRows, MemberSplits};
pub use spec::{DataSpec, MAX_DRAWS, Pattern, Scheme, Split};
pub use summary::{Lack, Spread, Summary};
