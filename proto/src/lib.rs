//! The wire: protobuf messages and services of `tessera.v1`, and their conversion to and from the domain.
//!
//! The only crate that knows both. Generated code is committed (`src/gen`); `tests/generated.rs` regenerates it with a
//! compiler of proto files in Rust and compares, so nobody needs `protoc`. Sizes are limited here, at the door.

/// Generated messages and services.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::disallowed_types,
    clippy::large_futures
)]
pub mod v1 {
    include!("gen/tessera.v1.rs");
}

pub mod convert;
mod transport;
pub mod version;

pub use transport::{CHUNK_BYTES, CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};

/// Version of the software that speaks.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
