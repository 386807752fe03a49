//! Why an identity is refused, in words that say what to do.

use tessera_common::access::{Role, SECRET_BYTES};
use tessera_common::id::{MemberName, Millis};
use time::OffsetDateTime;
use tonic::Status;

/// Why an identity, a token or a change of them is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error(
        "this coordinator takes certificates of an authority of its operator's (--client-ca) and makes none: have the site's \
         certificate signed there, with the site's name as Common Name"
    )]
    NoAuthority,
    #[error("this coordinator serves plaintext and knows no identities: start it without --plaintext to enrol sites")]
    Plaintext,
    #[error(
        "the coordinator knows no such token: it was made by another coordinator or long ago; make a new one with \
         `tessera enrol NAME`"
    )]
    TokenUnknown,
    #[error("a token's secret has {SECRET_BYTES} bytes: copy the whole line that `tessera enrol` printed")]
    TokenMalformed,
    #[error("the token for {name} was used already at {}; make a new one with `tessera enrol {name}`", utc(*at))]
    TokenUsed { name: MemberName, at: Millis },
    #[error(
        "the token for {name} expired at {} (the coordinator's clock says {}); make a new one with `tessera enrol {name}`",
        utc(*at),
        utc(*now)
    )]
    TokenExpired { name: MemberName, at: Millis, now: Millis },
    #[error("too many wrong tokens came from {from}; wait {seconds} s, then try again with a token of `tessera enrol NAME`")]
    TooMany { from: String, seconds: u64 },
    #[error("the certificate signing request cannot be used: {0}")]
    Request(String),
    #[error("the token cannot be made: {0}")]
    Token(String),
    #[error(
        "member {name} is revoked ({}); the coordinator's operator can undo it: tessera members unrevoke {name}",
        if reason.is_empty() { "no reason given" } else { reason }
    )]
    Revoked { name: MemberName, reason: String },
    #[error(
        "the certificate of {name} is not its latest enrolment's: {name} enrolled again with a new token; use the certificate \
         from there, or enrol once more with a token of `tessera enrol {name}`"
    )]
    Superseded { name: MemberName },
    #[error(
        "the certificate of {name} ended at {} (the coordinator's clock says {}): connect again with a newer one, or enrol again \
         with a token of `tessera enrol {name}`",
        utc(*at),
        utc(*now)
    )]
    Ended { name: MemberName, at: Millis, now: Millis },
    #[error("{name} is not enrolled at this coordinator; make a token with `tessera enrol {name}`, and enrol the site with it")]
    NotEnrolled { name: MemberName },
    #[error(
        "another authority now would cut off sites that have not renewed since the oldest one that is trusted was replaced: try again \
         after {0}"
    )]
    TooSoon(String),
    #[error("there is no member {name} here; `tessera members` lists them")]
    NoMember { name: MemberName },
    #[error(
        "{name} has the role {role}, and {needs}; enrol it with a role that may: `tessera enrol {name} --role ROLE`, and there remove the old identity folder first"
    )]
    Role { name: MemberName, role: Role, needs: String },
    #[error("the coordinator cannot keep this on its disk: {0}; free space or mend the disk, then try again")]
    Disk(String),
    #[error("the coordinator cannot make the certificate: {0}; its operator finds more in its log")]
    Certificate(String),
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let text = denied.to_string();
        match denied {
            Denied::NoAuthority | Denied::Plaintext => Status::failed_precondition(text),
            Denied::TokenUnknown | Denied::TokenUsed { .. } | Denied::TokenExpired { .. } | Denied::Ended { .. } => {
                Status::unauthenticated(text)
            }
            Denied::TooMany { .. } => Status::resource_exhausted(text),
            Denied::TokenMalformed | Denied::Request(_) | Denied::Token(_) => Status::invalid_argument(text),
            Denied::Revoked { .. } | Denied::Superseded { .. } | Denied::NotEnrolled { .. } | Denied::Role { .. } => {
                Status::permission_denied(text)
            }
            Denied::TooSoon(_) => Status::failed_precondition(text),
            Denied::NoMember { .. } => Status::not_found(text),
            Denied::Disk(_) => Status::unavailable(text),
            Denied::Certificate(_) => Status::internal(text),
        }
    }
}

/// A time for people, to the second.
pub(crate) fn utc(at: Millis) -> String {
    let at = i64::try_from(at / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    let Some(at) = at else { return "a time that no calendar has".into() };
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_to_do() {
        let name: MemberName = "north".parse().unwrap();
        let revoked = Denied::Revoked { name: name.clone(), reason: "laptop lost".into() }.to_string();
        assert_eq!(
            revoked,
            "member north is revoked (laptop lost); the coordinator's operator can undo it: tessera members unrevoke north"
        );
        let expired = Denied::TokenExpired { name: name.clone(), at: 1_800_000_000_000, now: 1_800_000_001_999 };
        let text = expired.to_string();
        assert!(
            text.contains("expired at 2027-01-15 08:00:00 UTC (the coordinator's clock says 2027-01-15 08:00:01 UTC)"),
            "{text}"
        );
        assert!(text.contains("make a new one with `tessera enrol north`"), "{text}");
        assert!(Denied::TokenUsed { name, at: 0 }.to_string().contains("tessera enrol north"));
        assert!(Denied::TokenUnknown.to_string().contains("tessera enrol NAME"));
        assert_eq!(Status::from(Denied::TokenUnknown).code(), tonic::Code::Unauthenticated);
        assert_eq!(utc(Millis::MAX), "a time that no calendar has");
    }
}
