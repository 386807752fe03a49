//! A live connection: numbered messages both ways, answers on their way, and whether anything is heard.

use super::Channel;
use super::entries::Done;
use crate::dial::Heard;
use crate::fault::{hit, point};
use crate::outbox::{Key, Outbox};
use crate::transfer;
use crate::worker::{Job, Tensors};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tessera_common::id::{AssignmentId, MemberName, RunId};
use tessera_common::update::UpdateRef;
use tessera_proto::convert::{shorten, wire_answer};
use tessera_proto::v1::{self, AgentMessage, agent_message::Message as Up};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

/// Messages that may wait to be sent: a failure of every member of a large agent at once. A full queue means a dead link.
const QUEUE: usize = 4096;
/// Answers that are read and sent at a time: their tensors are in memory meanwhile.
const UPLOADS: usize = 8;
/// Heartbeats of the coordinator that may be missed.
const SILENT_BEATS: u32 = 4;
/// Silence that is never taken for the end, however short the heartbeats. What is counted are bytes of any kind, and a
/// coordinator whose session waits for its disk still answers the transport's pings, so that this may be short.
const SILENT: Duration = Duration::from_secs(2);

/// What a transfer in the background came to.
#[derive(Debug)]
pub(super) enum Transfer {
    Fetched(Key, Result<Box<Job>, Status>),
    Sent(Key, Result<(), Unsent>),
    /// The certificate; true if there is a new one.
    Renewed(Result<bool, Status>),
}

/// Why an answer was not sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// Its tensors are not what they were.
    Damaged(String),
    /// The connection or the coordinator would not have it.
    Refused(Status),
}

/// A live connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) transfers: JoinSet<Transfer>,
    queue: mpsc::Sender<Up>,
    uploads: Arc<Semaphore>,
    /// The certificate is being renewed.
    pub(super) renewing: bool,
    /// Number of the last message that came.
    last: u64,
    /// Heartbeats that came.
    pub(super) beats: u32,
    heard: Heard,
    /// Bytes heard at the last tick, and ticks since something was.
    bytes: u64,
    silent: u32,
}

impl Link {
    /// A link, and what it has to say.
    pub(super) fn new(channel: Channel, heard: Heard) -> (Self, impl Stream<Item = AgentMessage> + Send + 'static) {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (transfers, uploads) = (JoinSet::new(), Arc::new(Semaphore::new(UPLOADS)));
        let link = Self { channel, transfers, queue, uploads, renewing: false, last: 0, beats: 0, heard, bytes: 0, silent: 0 };
        (link, numbered(messages))
    }

    /// Checks the number of a message that came.
    ///
    /// # Errors
    /// If one before it is missing, or it came twice. Versions that do not count send 0.
    pub(super) fn in_order(&mut self, sequence: u64) -> Result<(), Status> {
        let next = self.last + 1;
        if sequence != 0 && sequence != next {
            return Err(Status::data_loss(format!("message {next} was lost on the way; connecting again")));
        }
        self.last = next;
        Ok(())
    }

    /// To be called once every `beat`.
    ///
    /// # Errors
    /// If nothing was heard for too long: a half-open connection looks alive to TCP for minutes. Ticks are counted and not
    /// time, which goes on while this machine sleeps.
    pub(super) fn listen(&mut self, beat: Duration) -> Result<(), Status> {
        let bytes = self.heard.bytes();
        self.silent = if bytes == self.bytes { self.silent + 1 } else { 0 };
        self.bytes = bytes;
        let limit = SILENT_BEATS.max(SILENT.div_duration_f64(beat).ceil() as u32);
        if self.silent < limit {
            return Ok(());
        }
        Err(Status::deadline_exceeded(format!("nothing heard from the coordinator for {:?}", beat * self.silent)))
    }

    pub(super) fn send(&self, message: Up) -> Result<(), Status> {
        self.queue.try_send(message).map_err(|_| Status::unavailable("the link takes no more messages"))
    }

    pub(super) fn fail(&self, run: &RunId, member: &MemberName, id: AssignmentId, reason: String) -> Result<(), Status> {
        let (run, member) = (run.to_string(), member.to_string());
        self.send(Up::Failure(v1::Failure { run, member, assignment: id.0, reason: shorten(reason) }))
    }

    /// Uploads the tensors, then says so.
    pub(super) fn answer(&mut self, key: Key, done: &Done, outbox: Option<Arc<Outbox>>) {
        let (update, tensors) = (done.update.clone(), done.tensors.clone());
        let (channel, queue, uploads) = (self.channel.clone(), self.queue.clone(), self.uploads.clone());
        self.transfers.spawn(async move {
            let send = async {
                let closed = || Unsent::Refused(Status::unavailable("the link is closed"));
                let _permit = uploads.acquire().await.map_err(|_| closed())?;
                if let Some(digest) = update.blob {
                    let bytes = read(&key.0, &update, tensors, outbox).await.map_err(Unsent::Damaged)?;
                    point("agent/upload-before");
                    transfer::upload(&channel, digest, bytes).await.map_err(Unsent::Refused)?;
                    point("agent/upload-after");
                }
                point("agent/answer-before");
                queue.send(Up::Answer(wire_answer(&key.0, &update))).await.map_err(|_| closed())?;
                point("agent/answer-after");
                Ok(())
            };
            let outcome = send.await;
            Transfer::Sent(key, outcome)
        });
    }
}

/// Numbers messages in the order in which they go into the stream; here, because answers come from many tasks.
fn numbered(messages: mpsc::Receiver<Up>) -> impl Stream<Item = AgentMessage> + Send + 'static {
    let mut sequence = 0;
    let number = move |message| {
        sequence += 1;
        AgentMessage { message: Some(message), sequence }
    };
    ReceiverStream::new(messages).map(number).filter(|_| !hit("agent/lose-sent"))
}

async fn read(run: &RunId, update: &UpdateRef, tensors: Tensors, outbox: Option<Arc<Outbox>>) -> Result<Bytes, String> {
    let (run, update) = (run.clone(), update.clone());
    match (tensors, outbox) {
        (Tensors::Memory(bytes), _) => Ok(bytes),
        (Tensors::Stored, None) => Err("it was stored, and there is no outbox".into()),
        (Tensors::Stored, Some(outbox)) => {
            let read = tokio::task::spawn_blocking(move || outbox.read(&run, &update));
            read.await.map_err(|e| e.to_string())?.map(Bytes::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;

    fn link() -> (Link, Heard) {
        let heard = Heard::default();
        (Link::new(Endpoint::from_static("http://nowhere").connect_lazy(), heard.clone()).0, heard)
    }

    #[tokio::test]
    async fn a_lost_or_repeated_message_is_noticed() {
        let (mut link, _) = link();
        assert!([1, 2, 0, 4].into_iter().all(|n| link.in_order(n).is_ok()), "0 is not compared, and counts");
        for wrong in [4, 6] {
            let status = link.in_order(wrong).unwrap_err();
            assert_eq!(status.code(), tonic::Code::DataLoss);
            assert_eq!(status.message(), "message 5 was lost on the way; connecting again");
        }
    }

    #[tokio::test]
    async fn messages_are_numbered_in_their_order() {
        let (queue, messages) = mpsc::channel(4);
        for _ in 0..3 {
            queue.send(Up::Heartbeat(v1::Heartbeat {})).await.unwrap();
        }
        drop(queue);
        let numbers: Vec<u64> = numbered(messages).map(|m| m.sequence).collect().await;
        assert_eq!(numbers, [1, 2, 3]);
    }

    // Should: end a link of which nothing is heard. Should not: end one that is only slow.
    #[tokio::test]
    async fn silence_is_what_ends_a_link() {
        for (beat, ticks) in [(Duration::from_millis(500), 4), (Duration::from_millis(50), 40), (Duration::from_secs(5), 4)] {
            let (mut link, heard) = link();
            for _ in 0..2 {
                heard.add(1);
                assert!((0..ticks).all(|_| link.listen(beat).is_ok()), "{beat:?}");
            }
            let text = link.listen(beat).unwrap_err().to_string();
            assert!(text.contains("nothing heard from the coordinator for"), "{text}");
        }
    }
}
