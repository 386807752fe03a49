//! What the holders of one certificate name may do at a time. Callers of this machine have no such bounds. Whoever has too much
//! is told `unavailable`: an agent keeps its answer and sends it again.

use crate::access::Caller;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tessera_common::id::MemberName;
use tokio::time::Instant;
use tonic::Status;

/// Time over which bytes of uploads are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Blobs of the largest size that may be begun within [`WINDOW`], for each member that the name serves at present.
const BLOBS: u64 = 4;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Upload,
    Download,
    Control,
}

impl Work {
    fn most(self) -> usize {
        match self {
            Work::Upload | Work::Download => 64,
            Work::Control => 8,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Work::Upload => "uploads",
            Work::Download => "downloads",
            Work::Control => "control streams",
        }
    }
}

#[derive(Debug)]
struct Used {
    open: [usize; 3],
    /// Members that its control streams serve.
    members: usize,
    /// Bytes begun since.
    since: Instant,
    bytes: u64,
}

impl Used {
    fn new() -> Self {
        Self { open: [0; 3], members: 0, since: Instant::now(), bytes: 0 }
    }

    fn is_idle(&self) -> bool {
        self.open == [0; 3] && self.since.elapsed() > WINDOW
    }
}

/// What every name uses.
#[derive(Debug)]
pub(crate) struct Quotas {
    max_blob: u64,
    used: Mutex<BTreeMap<MemberName, Used>>,
}

/// Leave to do one thing, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Option<(Arc<Quotas>, MemberName)>,
    work: Work,
    members: usize,
}

impl Quotas {
    pub(crate) fn new(max_blob: u64) -> Arc<Self> {
        Arc::new(Self { max_blob, used: Mutex::default() })
    }

    /// Leave for the caller to do one more of `work`.
    ///
    /// # Errors
    /// If it does as many as it may.
    pub(crate) fn begin(self: &Arc<Self>, caller: &Caller, work: Work) -> Result<Permit, Status> {
        let Some(name) = caller.name() else { return Ok(Permit { of: None, work, members: 0 }) };
        let mut used = lock(&self.used);
        used.retain(|other, used| other == name || !used.is_idle());
        let open = &mut used.entry(name.clone()).or_insert_with(Used::new).open[work as usize];
        if *open >= work.most() {
            let (most, what) = (work.most(), work.text());
            return Err(Status::unavailable(format!(
                "{name} has {most} {what} at a time already, which is the most; wait until one ends"
            )));
        }
        *open += 1;
        Ok(Permit { of: Some((self.clone(), name.clone())), work, members: 0 })
    }

    /// Counts the bytes that an upload of the caller will bring.
    ///
    /// # Errors
    /// If it began too many within the last minute.
    pub(crate) fn bring(&self, caller: &Caller, bytes: u64) -> Result<(), Status> {
        let Some(name) = caller.name() else { return Ok(()) };
        let mut used = lock(&self.used);
        let used = used.entry(name.clone()).or_insert_with(Used::new);
        if used.since.elapsed() > WINDOW {
            (used.since, used.bytes) = (Instant::now(), 0);
        }
        // what is larger than any blob may be is refused elsewhere, with a text of its own
        let bytes = bytes.min(self.max_blob);
        let most = self.max_blob.saturating_mul(BLOBS).saturating_mul(used.members.max(1) as u64);
        let total = used.bytes.saturating_add(bytes);
        if total > most {
            let wait = WINDOW.saturating_sub(used.since.elapsed()).as_secs() + 1;
            return Err(Status::unavailable(format!(
                "{name} began uploads of {} bytes within {WINDOW:?}; {bytes} more are above the {most} that it may (--max-blob): wait \
                 {wait} s",
                used.bytes
            )));
        }
        used.bytes = total;
        Ok(())
    }
}

impl Permit {
    /// A control stream serves so many members; each may bring uploads.
    pub(crate) fn serves(&mut self, members: usize) {
        let Some((quotas, name)) = &self.of else { return };
        if let Some(used) = lock(&quotas.used).get_mut(name) {
            used.members = used.members + members - self.members;
            self.members = members;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some((quotas, name)) = &self.of else { return };
        if let Some(used) = lock(&quotas.used).get_mut(name) {
            used.open[self.work as usize] -= 1;
            used.members -= self.members;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Certified;
    use crate::identity::Peer;
    use tessera_common::access::Role;

    fn caller(name: &str) -> Caller {
        let peer = Peer { name: name.parse().unwrap(), serves: Vec::new(), expires: 0, serial: Vec::new() };
        let (labels, modalities) = (Vec::new(), Vec::new());
        Caller::Certified(Arc::new(Certified { peer: Arc::new(peer), role: Role::Member, labels, modalities }))
    }

    #[tokio::test]
    async fn one_name_does_so_much_at_a_time_and_others_do_not_suffer() {
        let quotas = Quotas::new(100);
        let north = caller("north");
        let mut open: Vec<Permit> = (0..64).map(|_| quotas.begin(&north, Work::Upload).unwrap()).collect();
        let refused = quotas.begin(&north, Work::Upload).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert_eq!(refused.message(), "north has 64 uploads at a time already, which is the most; wait until one ends");
        assert!(quotas.begin(&north, Work::Download).is_ok() && quotas.begin(&caller("south"), Work::Upload).is_ok());
        open.pop();
        assert!(quotas.begin(&north, Work::Upload).is_ok());
        let control: Vec<Permit> = (0..8).map(|_| quotas.begin(&north, Work::Control).unwrap()).collect();
        assert!(quotas.begin(&north, Work::Control).unwrap_err().message().contains("8 control streams"));
        drop(control);
        let local: Vec<Permit> = (0..1000).map(|_| quotas.begin(&Caller::Local, Work::Upload).unwrap()).collect();
        assert_eq!(local.len(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_a_minute_are_bounded_by_the_members_that_are_served() {
        let quotas = Quotas::new(100);
        let north = caller("north");
        (0..4).for_each(|_| quotas.bring(&north, 100).unwrap());
        let refused = quotas.bring(&north, 1).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains("400 bytes within 60s") && refused.message().contains("--max-blob"), "{refused}");
        quotas.bring(&caller("south"), 100).unwrap();
        let mut control = quotas.begin(&north, Work::Control).unwrap();
        control.serves(3);
        (0..8).for_each(|_| quotas.bring(&north, 100).unwrap());
        assert!(quotas.bring(&north, 1).is_err());
        drop(control);
        tokio::time::advance(WINDOW + Duration::from_secs(1)).await;
        (0..4).for_each(|_| quotas.bring(&north, u64::MAX).unwrap());
        assert!(quotas.bring(&north, u64::MAX).is_err(), "no overflow");
        tokio::time::advance(WINDOW * 2).await;
        drop(quotas.begin(&caller("west"), Work::Upload));
        assert_eq!(lock(&quotas.used).len(), 1, "names that do nothing are forgotten");
    }
}
