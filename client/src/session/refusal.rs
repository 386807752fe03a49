//! What the coordinator will say again, however often it is asked.

use super::{LONGEST_PAUSE, Session};
use crate::audit;
use crate::quiet::Quiet;
use std::time::Duration;
use tonic::{Code, Status};

/// An answer or a blob that is refused so is given up, not the connection, which serves other members too.
pub(super) fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::InvalidArgument | Code::PermissionDenied | Code::OutOfRange)
}

/// A connection that ends so will end so again: the agent is revoked, has no certificate that counts or the wrong role,
/// serves members that are not its own, or is of another version. It asks again, slowly: an operator may change that.
pub(super) fn lasts(status: &Status) -> bool {
    // one with a source is of this side's transport
    let theirs = std::error::Error::source(status).is_none();
    let codes = [Code::PermissionDenied, Code::Unauthenticated, Code::FailedPrecondition, Code::InvalidArgument];
    theirs && codes.contains(&status.code())
}

/// The pause before the next attempt to connect: the longest at once after a refusal that lasts.
pub(super) fn wait(end: &Result<(), Status>, pauses: &mut impl Iterator<Item = Duration>) -> Duration {
    match end {
        Err(status) if lasts(status) => LONGEST_PAUSE,
        _ => pauses.next().unwrap_or(LONGEST_PAUSE),
    }
}

/// The last refusal, so that the log does not repeat it every few seconds.
#[derive(Debug, Default)]
pub(super) struct Refused {
    text: String,
    told: Quiet,
}

impl Refused {
    /// True if this text is new; the second value says whether the log wants it.
    fn again(&mut self, text: &str) -> (bool, bool) {
        let new = self.text != text;
        if new {
            *self = Self { text: text.to_owned(), told: Quiet::default() };
        }
        (new, self.told.due().is_some())
    }
}

impl Session {
    /// Tells that the coordinator would not have this agent: once in the audit log, and once a minute in the other.
    pub(super) fn turned_away(&mut self, status: &Status, wait: Duration) {
        let (reason, code) = (status.message(), status.code());
        let (new, tell) = self.refused.again(reason);
        if new {
            self.audit.note(audit::entry("refused", reason));
        }
        if tell {
            tracing::error!(reason, ?code, ?wait, "the coordinator refuses this agent; asking again, in case that changes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lasts_and_a_lost_connection_does_not() {
        for lasting in [Status::permission_denied("revoked"), Status::unauthenticated("x"), Status::failed_precondition("old")] {
            assert!(lasts(&lasting), "{lasting:?}");
            assert_eq!(wait(&Err(lasting), &mut std::iter::empty()), LONGEST_PAUSE);
        }
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::PermissionDenied)));
        for passing in [Status::unavailable("x"), Status::aborted("x"), Status::deadline_exceeded("x"), broken] {
            assert!(!lasts(&passing), "{passing:?}");
            let short = Duration::from_millis(50);
            assert_eq!(wait(&Err(passing), &mut std::iter::once(short)), short);
        }
    }

    #[test]
    fn a_refusal_is_told_once_until_it_changes() {
        let mut refused = Refused::default();
        assert_eq!(refused.again("revoked"), (true, true));
        assert_eq!(refused.again("revoked"), (false, false));
        assert_eq!(refused.again("old"), (true, true));
    }
}
