//! The data readers of the crate `client`, compiled without the rest of it.

#![allow(dead_code)]

#[path = "../../client/src"]
mod source {
    pub mod data;
    pub(crate) mod disk;
}

pub use source::data;
use source::disk;
