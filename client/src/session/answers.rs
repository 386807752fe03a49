//! From a finished job to the verdict.

use super::entries::{Entry, Stage};
use super::link::{Link, Unsent};
use super::refusal::is_final;
use super::{CAUGHT_UP, Session};
use crate::audit;
use crate::fault::point;
use crate::outbox::Key;
use crate::worker::Finished;
use tessera_common::id::AssignmentId;
use tessera_proto::convert::{member_name, run_id};
use tessera_proto::v1;
use tonic::Status;

impl Session {
    pub(super) fn finished(&mut self, finished: Finished, link: &mut Link) -> Result<(), Status> {
        let Finished { run, spec_digest, assignment, result } = finished;
        let key = (run, assignment.id);
        let (run, id, member) = (&key.0, key.1, &assignment.member);
        // it may have been cancelled or replaced in the meantime
        let same = |e: &&mut Entry| e.assignment == assignment && e.spec == spec_digest && matches!(e.stage, Stage::Working);
        let Some(entry) = self.entries.get_mut(&key).filter(same) else {
            if let (None, Ok(answer), Some(outbox)) = (self.entries.get(&key), result, &self.outbox) {
                outbox.remove(run, id, answer.update.blob);
            }
            return Ok(());
        };
        match result {
            Ok(answer) => {
                entry.stage = Stage::done(answer);
                // one that an earlier connection gave may be of a coordinator that is no more: first see whether it comes again
                if entry.given == self.connection || link.beats >= CAUGHT_UP {
                    self.send(&key, link);
                }
                Ok(())
            }
            Err(reason) => {
                tracing::error!(%run, %member, round = assignment.round, reason, "an assignment failed");
                self.audit.note(audit::about("fail", run, &assignment, reason.clone()));
                self.entries.remove(&key);
                link.fail(run, member, id, reason)
            }
        }
    }

    /// Sends what is done and was not given again: the coordinator may have it already, and its verdict was lost. Answers of
    /// members that this agent does not serve at present wait.
    pub(super) fn send_waiting(&mut self, link: &mut Link) {
        let served = |e: &Entry| self.agent.members.contains_key(&e.assignment.member);
        let waiting = |e: &Entry| e.given != self.connection && served(e);
        // the policy may have changed since: without the run's spec nobody knows, and such an answer waits
        let allowed = |key: &Key, e: &Entry| self.agent.policy.is_open() || self.still_allowed(&key.0, e);
        let keys: Vec<Key> =
            self.entries.iter().filter(|(key, e)| waiting(e) && allowed(key, e)).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.send(key, link));
    }

    /// Sends an answer if it is there. One that is on its way is sent once more when it has gone: the coordinator has asked
    /// for it after it may have seen it.
    pub(super) fn send(&mut self, key: &Key, link: &mut Link) {
        let Some(Entry { stage: Stage::Done(done), assignment, .. }) = self.entries.get_mut(key) else { return };
        done.again = done.sending == self.connection;
        if !done.again {
            done.sending = self.connection;
            // before it leaves, for what has left without a word here cannot be told any more
            let entry = audit::about("send", &key.0, assignment, "ok");
            self.audit.note(audit::Entry { digest: done.update.blob, ..entry });
            link.answer(key.clone(), done, self.outbox.clone());
        }
    }

    pub(super) fn sent(&mut self, key: Key, outcome: Result<(), Unsent>, link: &mut Link) -> Result<(), Status> {
        // it may have been judged or cancelled in the meantime
        let Some(entry) = self.entries.get_mut(&key) else { return Ok(()) };
        let Stage::Done(done) = &mut entry.stage else { return Ok(()) };
        done.sending = 0;
        let (run, id, member) = (&key.0, key.1, entry.assignment.member.clone());
        match outcome {
            Ok(()) if std::mem::take(&mut done.again) => {
                self.send(&key, link);
                Ok(())
            }
            Ok(()) => Ok(()),
            Err(Unsent::Damaged(why)) => {
                tracing::warn!(%run, %member, assignment = %id, why, "a finished answer cannot be read; its work is done again");
                let Some(entry) = self.entries.remove(&key) else { return Ok(()) };
                // without its spec it was not given over this connection, and comes again if it is still wanted
                match self.specs.get(run) {
                    Some(known) if known.digest == entry.spec => self.assigned(key.0, entry.assignment, link),
                    _ => Ok(()),
                }
            }
            Err(Unsent::Refused(status)) if is_final(&status) => {
                let reason = status.message().to_owned();
                tracing::error!(%run, %member, assignment = %id, reason, "the coordinator does not take this answer");
                self.forget(&key);
                link.fail(&key.0, &member, id, reason)
            }
            Err(Unsent::Refused(status)) => Err(status),
        }
    }

    pub(super) fn verdict(&mut self, verdict: &v1::Verdict) -> Result<(), Status> {
        let (run, member) = (run_id(&verdict.run)?, member_name(&verdict.member)?);
        let assignment = AssignmentId(verdict.assignment);
        if verdict.accepted {
            self.progress = true;
        } else {
            tracing::warn!(%run, %member, %assignment, reason = verdict.reason, "the coordinator refused this answer");
        }
        let key = (run, assignment);
        if let Some(entry) = self.entries.get(&key) {
            let text = if verdict.accepted { "ok" } else { &verdict.reason };
            let digest = entry.blob();
            self.audit.note(audit::Entry { digest, ..audit::about("verdict", &key.0, &entry.assignment, text) });
        }
        point("agent/verdict-before-remove");
        self.forget(&key);
        point("agent/verdict-after-remove");
        Ok(())
    }

    /// Whatever is here of an assignment that is judged or no longer wanted goes.
    pub(super) fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        entry.cancel();
        if let Some(outbox) = &self.outbox {
            outbox.remove(&key.0, key.1, entry.blob());
        }
    }
}
