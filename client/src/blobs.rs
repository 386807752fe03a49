//! Blobs that this process works with: each is fetched once, however many members it hosts.

mod shelf;

pub(crate) use shelf::{Part, Shelf};

use crate::session::Channel;
use crate::state::StateDir;
use crate::transfer;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tessera_common::id::Digest;
use tessera_common::param::{Limits, ParamSet};
use tokio::sync::Mutex;
use tonic::{Code, Status};

/// Blobs that are kept parsed: the current global and statistics of a few runs.
const KEPT: usize = 16;

/// Blobs in memory and, if there is a state folder, in files.
#[derive(Debug)]
pub(crate) struct Blobs {
    shelf: Option<Shelf>,
    parsed: Mutex<VecDeque<(Digest, Arc<ParamSet>)>>,
    /// Bytes of downloads that broke off and could not be kept in files.
    partial: Mutex<BTreeMap<Digest, Vec<u8>>>,
    /// One download at a time, so that the others find its result.
    turn: Mutex<()>,
}

impl Blobs {
    /// With files in this state folder.
    pub(crate) fn new(state: Option<Arc<StateDir>>) -> Self {
        Self { shelf: state.map(Shelf::new), parsed: Mutex::default(), partial: Mutex::default(), turn: Mutex::default() }
    }

    /// The parameter set of this digest, fetched if it is not here.
    pub(crate) async fn get(&self, channel: &Channel, digest: Digest) -> Result<Arc<ParamSet>, Status> {
        let _turn = self.turn.lock().await;
        if let Some(found) = self.parsed.lock().await.iter().find(|(d, _)| *d == digest) {
            return Ok(found.1.clone());
        }
        let stored = match &self.shelf {
            Some(shelf) => shelf.get(digest).await,
            None => None,
        };
        let bytes = match stored {
            Some(bytes) => bytes,
            None => self.download(channel, digest).await?,
        };
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
        let kept = self.partial.lock().await.remove(&digest);
        let mut part = match (kept, &self.shelf) {
            (None, Some(shelf)) => shelf.part(digest).await,
            (kept, _) => Part::in_memory(kept.unwrap_or_default()),
        };
        match transfer::fetch(channel, digest, &mut part).await {
            Ok(()) => {}
            Err(status) if matches!(status.code(), Code::DataLoss | Code::OutOfRange) => {
                part.discard().await;
                return Err(status);
            }
            Err(status) => {
                if let Some(bytes) = part.unkept() {
                    self.partial.lock().await.insert(digest, bytes);
                }
                return Err(status);
            }
        }
        let found = Digest::of(part.bytes());
        if found == digest {
            Ok(part.complete().await)
        } else {
            part.discard().await;
            Err(Status::data_loss(format!("asked for blob {}, got {}", digest.short(), found.short())))
        }
    }
}
