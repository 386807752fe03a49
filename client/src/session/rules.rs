//! The site's own rules, and its certificate.

use super::Session;
use super::entries::{Entry, Known};
use super::link::{Link, Transfer};
use crate::audit;
use tessera_common::id::RunId;
use tessera_common::round::Assignment;
use tonic::Status;

/// Begins the text of what a site's policy refuses.
const REFUSED: &str = "site policy: ";

impl Session {
    /// Keeps the spec of a run that opened, and notes once what the policy says to it.
    pub(super) fn look_at(&mut self, run: RunId, known: Known) {
        if self.specs.get(&run).is_some_and(|old| old.digest == known.digest) {
            return;
        }
        let policy = &self.agent.policy;
        let refused = self.agent.members.iter().filter_map(|(name, data)| Some((name, policy.check(&known.spec, data).err()?)));
        let refused: Vec<String> = refused.map(|(name, why)| format!("{name}: {why}")).collect();
        let verdict = if refused.is_empty() { "ok".to_owned() } else { format!("{REFUSED}{}", refused.join("; ")) };
        if !refused.is_empty() {
            let (count, first) = (refused.len(), &refused[0]);
            tracing::warn!(%run, members = count, first, "the site's policy keeps members out of this run");
        }
        let entry = audit::entry("open", verdict);
        self.audit.note(audit::Entry { run: Some(run.to_string()), digest: Some(known.digest), ..entry });
        self.specs.insert(run, known);
    }

    /// Why the policy refuses this assignment, if it does. A run that it allows is counted from now on. Members that are not
    /// served and runs that are not known are no matter of the policy.
    pub(super) fn refusal(&mut self, run: &RunId, assignment: &Assignment) -> Option<String> {
        let (data, known) = (self.agent.members.get(&assignment.member)?, self.specs.get(run)?);
        let checked = self.agent.policy.check(&known.spec, data);
        let counted = checked.and_then(|()| self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.admit(run, known.digest)));
        let reason = format!("{REFUSED}{}", counted.err()?);
        let (member, round) = (&assignment.member, assignment.round);
        tracing::warn!(%run, %member, round, reason, "an assignment is refused");
        self.audit.note(audit::about("refuse", run, assignment, reason.clone()));
        Some(reason)
    }

    /// True if an answer of an earlier start is of a run that the present policy allows.
    pub(super) fn still_allowed(&self, run: &RunId, entry: &Entry) -> bool {
        let data = self.agent.members.get(&entry.assignment.member);
        let known = self.specs.get(run).filter(|known| known.digest == entry.spec);
        let counted = |known: &Known| self.ledger.as_ref().is_none_or(|ledger| ledger.has(run, known.digest));
        data.zip(known).is_some_and(|(data, known)| self.agent.policy.check(&known.spec, data).is_ok() && counted(known))
    }

    /// Begins to renew the certificate over this connection if it is time; the next connection uses the new one.
    pub(super) fn renew(&mut self, link: &mut Link) {
        let Some(identity) = self.agent.identity.clone().filter(|i| !link.renewing && i.renew_at() <= crate::identity::now())
        else {
            return;
        };
        link.renewing = true;
        let channel = link.channel.clone();
        link.transfers.spawn(async move { Transfer::Renewed(identity.renew_if_due(&channel).await) });
    }

    pub(super) fn renewed(&mut self, outcome: Result<bool, Status>) {
        match outcome {
            Ok(true) => self.audit.note(audit::entry("renew", "ok")),
            Ok(false) => {}
            Err(status) => {
                let reason = status.message();
                if let Some(silent) = self.unrenewed.due() {
                    tracing::error!(reason, silent, "the certificate cannot be renewed; trying again");
                    self.audit.note(audit::entry("renew", reason));
                }
            }
        }
    }
}
