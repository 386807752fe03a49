//! The model state that a round publishes.

use crate::id::{Digest, Round};
use serde::{Deserialize, Serialize};

/// A published global: one blob with parameters, prototype library, standardisation and strategy state.
///
/// The library lies in the same file as the parameters that it belongs to, so that the two cannot part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalRef {
    /// Round that published it; 0 for the initial one.
    pub round: Round,
    /// Digest of the blob.
    pub digest: Digest,
}
