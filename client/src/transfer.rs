//! Blobs up and down: in chunks, from where they stopped.

use crate::blobs::Part;
use crate::fault::hit;
use crate::session::Channel;
use bytes::Bytes;
use tessera_common::id::Digest;
use tessera_common::param::Limits;
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::upload_request::Part as Piece;
use tessera_proto::v1::{DownloadRequest, UploadHeader, UploadRequest, UploadStatusRequest};
use tessera_proto::{CHUNK_BYTES, MAX_MESSAGE_BYTES};
use tonic::{Code, Status};

pub(crate) fn client(channel: &Channel) -> FederationClient<Channel> {
    FederationClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// What a call says that never reached the coordinator.
fn lost() -> Result<(), Status> {
    if hit("agent/lose-blob") { Err(Status::unavailable("the call was lost on the way")) } else { Ok(()) }
}

/// Sends a blob, from where an earlier attempt stopped.
pub(crate) async fn upload(channel: &Channel, digest: Digest, blob: Bytes) -> Result<(), Status> {
    lost()?;
    let mut client = client(channel);
    // A second round is for a coordinator that lost or refused a part: it names the offset anew.
    for _ in 0..3 {
        let status = client.upload_status(UploadStatusRequest { digest: digest_bytes(&digest) }).await?.into_inner();
        if status.complete {
            return Ok(());
        }
        let offset = (status.offset as usize).min(blob.len());
        let header = UploadHeader { digest: digest_bytes(&digest), bytes: blob.len() as u64, offset: offset as u64 };
        let rest = blob.slice(offset..);
        let chunks = (0..rest.len().div_ceil(CHUNK_BYTES)).map(move |i| {
            let end = ((i + 1) * CHUNK_BYTES).min(rest.len());
            UploadRequest { part: Some(Piece::Chunk(rest.slice(i * CHUNK_BYTES..end))) }
        });
        let parts = std::iter::once(UploadRequest { part: Some(Piece::Header(header)) }).chain(chunks);
        match client.upload(tokio_stream::iter(parts)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::aborted("the coordinator keeps asking for another offset"))
}

/// Appends to `part` what is missing of a blob.
///
/// # Errors
/// If the connection breaks, or the coordinator sends more than it announced or refuses the offset: `DataLoss` and
/// `OutOfRange` mean that the part is of no use.
pub(crate) async fn fetch(channel: &Channel, digest: Digest, part: &mut Part) -> Result<(), Status> {
    lost()?;
    let limit = Limits::default().bytes;
    let request = DownloadRequest { digest: digest_bytes(&digest), offset: part.len() };
    let mut stream = client(channel).download(request).await?.into_inner();
    let mut total = None;
    while let Some(message) = stream.message().await? {
        let whole = *total.get_or_insert(message.total);
        if part.len() + message.chunk.len() as u64 > limit.min(whole) {
            return Err(Status::data_loss(format!("blob {} is longer than announced", digest.short())));
        }
        part.append(&message.chunk).await;
    }
    match total {
        Some(total) if total == part.len() => Ok(()),
        _ => Err(Status::unavailable(format!("blob {} broke off after {} bytes", digest.short(), part.len()))),
    }
}
