//! Numbers that both ends of a connection must agree on, as measured on loopback.

/// Largest HTTP/2 frame. The one setting that matters for speed: a third to a half of the CPU of 16 KiB frames.
pub const FRAME_BYTES: u32 = 256 << 10;

/// Payload of one chunk of a blob: below the frame, far below the 4 MiB limit of a decoded message.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Largest message that is decoded. Blobs come in chunks; what else can grow is a report of metrics or a spec.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Flow-control window of a stream.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Flow-control window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
