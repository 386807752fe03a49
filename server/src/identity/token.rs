//! What a token is asked to give, and who guesses at tokens.

use super::denied::Denied;
use super::peer::is_pattern;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;
use tessera_common::access::Role;
use tessera_common::id::{MAX_NAME, MemberName, Millis, is_valid_name};

/// Longest that a token may be good.
const MAX_VALID: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Most labels, modalities and served names of an identity: they are in every list of members and in its certificate.
const MAX_ITEMS: usize = 64;
/// Longest address in a token.
const MAX_ADDRESS: usize = 255;

/// What a new token is to give.
#[derive(Debug, Clone)]
pub(crate) struct NewToken {
    pub name: MemberName,
    pub role: Role,
    pub labels: Vec<String>,
    /// Any if empty.
    pub modalities: Vec<String>,
    /// Members besides itself that it serves; a trailing `*` stands for all that begin so.
    pub serves: Vec<String>,
    pub valid: Duration,
    /// Where the site finds the coordinator; what the coordinator thinks if None.
    pub address: Option<String>,
}

impl NewToken {
    pub(crate) fn check(&self) -> Result<(), Denied> {
        let refuse = |ok: bool, why: &dyn Fn() -> String| if ok { Ok(()) } else { Err(Denied::Token(why())) };
        let (most, valid) = (MAX_ITEMS, self.valid);
        let days = MAX_VALID.as_secs() / 86_400;
        refuse((Duration::from_secs(1)..=MAX_VALID).contains(&valid), &|| {
            format!("it would be good for {valid:?}; choose from 1s to {days} days")
        })?;
        for (what, items) in [("labels", &self.labels), ("modalities", &self.modalities), ("served names", &self.serves)] {
            refuse(items.len() <= most, &|| format!("it has {} {what}; {most} are the most", items.len()))?;
        }
        for label in &self.labels {
            let good = (1..=MAX_NAME).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic() && b != b',');
            refuse(good, &|| {
                format!("label {:?} is not 1 to {MAX_NAME} visible ASCII characters without a comma", short(label))
            })?;
        }
        for modality in &self.modalities {
            refuse(is_valid_name(modality), &|| format!("{:?} is no name of a modality", short(modality)))?;
        }
        for pattern in &self.serves {
            refuse(is_pattern(pattern), &|| {
                format!("{:?} is neither a member's name nor the beginning of one with * behind it", short(pattern))
            })?;
        }
        self.address.as_deref().map_or(Ok(()), check_address)
    }
}

fn check_address(address: &str) -> Result<(), Denied> {
    let parts = address.rsplit_once(':').filter(|_| address.len() <= MAX_ADDRESS);
    let good = parts.is_some_and(|(host, port)| {
        let visible = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        visible && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let why = || format!("address {:?} is not host:port, such as coordinator.example.org:7443", short(address));
    if good { Ok(()) } else { Err(Denied::Token(why())) }
}

fn short(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

/// How long a wrong token is held against the address that it came from.
const WINDOW: u64 = 60_000;
/// Wrong tokens within the window after which an address has to wait.
const PER_ADDRESS: usize = 10;
/// Wrong tokens within the window that are remembered of all addresses together.
const TOGETHER: usize = 100;

/// Wrong tokens of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Guesses(VecDeque<(Millis, IpAddr)>);

impl Guesses {
    /// Refuses an address that was wrong too often, whatever it brings now.
    pub(crate) fn admit(&mut self, from: IpAddr, now: Millis) -> Result<(), Denied> {
        self.0.retain(|(at, _)| now.saturating_sub(*at) < WINDOW);
        let source = network(from);
        let mut mine = self.0.iter().filter(|(_, address)| *address == source);
        let oldest = mine.next().map_or(now, |(at, _)| *at);
        if mine.count() + 1 < PER_ADDRESS { Ok(()) } else { Err(too_many(from.to_string(), oldest, now)) }
    }

    /// Remembers that `from` brought a wrong one, and says what to answer. A right one is never refused for what others
    /// did: anybody could keep sites out that way. Secrets are too long to be guessed at any pace.
    pub(crate) fn wrong(&mut self, from: IpAddr, now: Millis) -> Denied {
        if self.0.len() >= TOGETHER {
            let oldest = self.0.front().map_or(now, |(at, _)| *at);
            return too_many("everywhere".into(), oldest, now);
        }
        self.0.push_back((now, network(from)));
        Denied::TokenUnknown
    }
}

fn too_many(from: String, oldest: Millis, now: Millis) -> Denied {
    Denied::TooMany { from, seconds: (oldest + WINDOW).saturating_sub(now).div_ceil(1000) }
}

/// Whoever has one IPv6 address has the 2^64 beside it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn plain() -> NewToken {
        NewToken {
            name: "north".parse().unwrap(),
            role: Role::Member,
            labels: vec!["region=eu".into()],
            modalities: vec!["image".into()],
            serves: vec!["ward-*".into()],
            valid: Duration::from_secs(3600),
            address: Some("hub.example.org:7443".into()),
        }
    }

    #[test]
    fn what_cannot_be_in_a_token_is_named() {
        assert_eq!(plain().check(), Ok(()));
        let with = |change: &dyn Fn(&mut NewToken)| {
            let mut token = plain();
            change(&mut token);
            token.check().unwrap_err().to_string()
        };
        assert!(with(&|t| t.valid = Duration::ZERO).contains("1s to 90 days"));
        assert!(with(&|t| t.valid = Duration::from_secs(1 << 40)).contains("1s to 90 days"));
        assert!(with(&|t| t.labels = vec!["a b".into()]).contains("\"a b\""));
        assert!(with(&|t| t.labels = vec!["x".into(); 65]).contains("65 labels"));
        assert!(with(&|t| t.modalities = vec!["/".into()]).contains("modality"));
        assert!(with(&|t| t.serves = vec!["a*b".into()]).contains("a*b"));
        for address in ["", "hub", "hub:", ":7443", "hub:0", "hub:70000", "http://hub:80", "a b:1"] {
            assert!(with(&|t| t.address = Some(address.into())).contains("host:port"), "{address}");
        }
    }

    #[test]
    fn an_address_that_guesses_waits_and_others_do_not() {
        let (mut guesses, bad, good): (_, IpAddr, IpAddr) =
            (Guesses::default(), "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        for i in 0..10 {
            assert_eq!(guesses.admit(bad, 1000 + i), Ok(()), "{i}");
            assert_eq!(guesses.wrong(bad, 1000 + i), Denied::TokenUnknown);
        }
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        for from in [bad, mapped] {
            let Err(Denied::TooMany { seconds, .. }) = guesses.admit(from, 11_000) else { panic!("it got in") };
            assert_eq!(seconds, 50);
        }
        assert_eq!(guesses.admit(good, 11_000), Ok(()));
        assert_eq!(guesses.admit(bad, 61_000), Ok(()), "the first is a minute old");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_one_ipv6_network_is_one_address() {
        let mut guesses = Guesses::default();
        for i in 0..TOGETHER as u32 {
            assert_eq!(guesses.wrong(IpAddr::from(i.to_be_bytes()), 5), Denied::TokenUnknown);
        }
        assert!(matches!(guesses.wrong([9, 9, 9, 9].into(), 5), Denied::TooMany { seconds: 60, .. }));
        assert_eq!(guesses.0.len(), TOGETHER);
        let mut guesses = Guesses::default();
        for i in 1..=10 {
            drop(guesses.wrong(format!("2001:db8::{i}").parse().unwrap(), 5));
        }
        assert!(guesses.admit("2001:db8::ffff".parse().unwrap(), 6).is_err());
        assert!(guesses.admit("2001:db8:0:1::1".parse().unwrap(), 6).is_ok());
    }
}
