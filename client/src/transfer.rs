//! Blobs up and down: in chunks, from where they stopped, checked by digest.

use crate::session::Channel;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tessera_common::id::Digest;
use tessera_common::param::{Limits, ParamSet};
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::{DownloadRequest, UploadHeader, UploadRequest, UploadStatusRequest, upload_request::Part};
use tessera_proto::{CHUNK_BYTES, MAX_MESSAGE_BYTES};
use tokio::sync::Mutex;
use tonic::{Code, Status};

/// Blobs that are kept parsed: the current global and statistics of a few runs.
const KEPT: usize = 16;

pub(crate) fn client(channel: &Channel) -> FederationClient<Channel> {
    FederationClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Sends a blob, from where an earlier attempt stopped.
pub(crate) async fn upload(channel: &Channel, digest: Digest, blob: Bytes) -> Result<(), Status> {
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
            UploadRequest { part: Some(Part::Chunk(rest.slice(i * CHUNK_BYTES..end))) }
        });
        let parts = std::iter::once(UploadRequest { part: Some(Part::Header(header)) }).chain(chunks);
        match client.upload(tokio_stream::iter(parts)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::aborted("the coordinator keeps asking for another offset"))
}

/// Blobs of this process: each is fetched once, however many members it hosts.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    parsed: Mutex<VecDeque<(Digest, Arc<ParamSet>)>>,
    /// Bytes of downloads that broke off.
    partial: Mutex<BTreeMap<Digest, Vec<u8>>>,
    /// One download at a time, so that the others find its result.
    turn: Mutex<()>,
}

impl Blobs {
    /// The parameter set of this digest, fetched if it is not here.
    pub(crate) async fn get(&self, channel: &Channel, digest: Digest) -> Result<Arc<ParamSet>, Status> {
        let _turn = self.turn.lock().await;
        if let Some(found) = self.parsed.lock().await.iter().find(|(d, _)| *d == digest) {
            return Ok(found.1.clone());
        }
        let bytes = self.download(channel, digest).await?;
        let set = ParamSet::from_bytes(&bytes, &Limits::default())
            .map_err(|e| Status::data_loss(format!("blob {} of the coordinator is not usable: {e}", digest.short())))?;
        let set = Arc::new(set);
        let mut parsed = self.parsed.lock().await;
        parsed.push_back((digest, set.clone()));
        while parsed.len() > KEPT {
            parsed.pop_front();
        }
        Ok(set)
    }

    async fn download(&self, channel: &Channel, digest: Digest) -> Result<Vec<u8>, Status> {
        let mut bytes = self.partial.lock().await.remove(&digest).unwrap_or_default();
        let outcome = fetch(channel, digest, &mut bytes).await;
        if let Err(status) = outcome {
            self.partial.lock().await.insert(digest, bytes);
            return Err(status);
        }
        let found = Digest::of(&bytes);
        if found == digest {
            Ok(bytes)
        } else {
            Err(Status::data_loss(format!("asked for blob {}, got {}", digest.short(), found.short())))
        }
    }
}

async fn fetch(channel: &Channel, digest: Digest, bytes: &mut Vec<u8>) -> Result<(), Status> {
    let limit = Limits::default().bytes;
    let request = DownloadRequest { digest: digest_bytes(&digest), offset: bytes.len() as u64 };
    let mut stream = client(channel).download(request).await?.into_inner();
    let mut total = None;
    while let Some(part) = stream.message().await? {
        total = total.or(Some(part.total));
        bytes.extend_from_slice(&part.chunk);
        if bytes.len() as u64 > limit.min(total.unwrap_or(0)) {
            bytes.clear();
            return Err(Status::data_loss(format!("blob {} is longer than announced", digest.short())));
        }
    }
    match total {
        Some(total) if total == bytes.len() as u64 => Ok(()),
        _ => Err(Status::unavailable(format!("blob {} broke off after {} bytes", digest.short(), bytes.len()))),
    }
}
