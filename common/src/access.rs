//! Who may do what: roles, names that a certificate may serve, and one-time tokens as text.
//!
//! Certificates, keys and files are elsewhere; here is what coordinator, agent and command line must understand alike.

use crate::id::{MAX_NAME, MemberName, Millis};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the holder of a certificate may do. Each role stands alone: an admin does not train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves members that train and evaluate.
    Member,
    /// Serves members that evaluate only.
    Evaluator,
    /// Reads runs and members, and changes nothing.
    Observer,
    /// Everything that an operator may do on the coordinator's machine.
    Admin,
}

/// All roles with their names, in the order of help texts.
pub const ROLES: [(Role, &str); 4] =
    [(Role::Member, "member"), (Role::Evaluator, "evaluator"), (Role::Observer, "observer"), (Role::Admin, "admin")];

impl Role {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Member => "member",
            Role::Evaluator => "evaluator",
            Role::Observer => "observer",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = ROLES.iter().find(|(_, name)| *name == text);
        found.map(|(role, _)| *role).ok_or_else(|| {
            let names: Vec<&str> = ROLES.iter().map(|(_, name)| *name).collect();
            format!("{:?} is no role; the roles are {}", text.chars().take(MAX_NAME).collect::<String>(), names.join(", "))
        })
    }
}

/// True if one of `patterns` is the member's name, or ends in `*` and the name begins with what is before it.
pub fn serves(patterns: &[String], member: &MemberName) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(stem) => member.as_str().starts_with(stem),
        None => pattern == member.as_str(),
    })
}

/// What every token begins with: people and scanners of leaked secrets know it by that.
const PREFIX: &str = "tessera1.";
/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;
/// Longest text of a token, in bytes.
pub const MAX_TOKEN: usize = 1024;
/// Bytes of the checksum at the end of a token.
const CHECK: usize = 4;

/// What a site needs to enrol, once. Its secret is in its text alone: `Debug` and logs never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Name of the identity that it gives.
    pub name: MemberName,
    /// Where the coordinator is, `host:port`.
    pub address: String,
    /// SHA-256 of the certificate (DER) of the coordinator's authority.
    pub authority: [u8; 32],
    /// Proves that the coordinator made this token.
    pub secret: [u8; SECRET_BYTES],
    /// When it ends.
    pub expires: Millis,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Token");
        shown.field("name", &self.name).field("address", &self.address).field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Text that is no token. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It does not begin as a token does.
    #[error("this is no token: a token begins with {PREFIX:?}; copy the whole line that `tessera enrol` printed")]
    Prefix,
    /// Characters are missing or changed.
    #[error("the token is damaged: characters are missing or changed; copy the whole line that `tessera enrol` printed")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct Body {
    n: MemberName,
    a: String,
    c: String,
    s: String,
    e: Millis,
}

impl Token {
    /// The text that is handed to the site. Whoever has it can enrol.
    pub fn reveal(&self) -> String {
        let (c, s) = (BASE64URL_NOPAD.encode(&self.authority), BASE64URL_NOPAD.encode(&self.secret));
        let body = Body { n: self.name.clone(), a: self.address.clone(), c, s, e: self.expires };
        let mut bytes = serde_json::to_vec(&body).expect("names, text and numbers are JSON");
        let check = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&check[..CHECK]);
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let damaged = InvalidToken::Damaged;
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidToken::Prefix)?;
        if text.len() > MAX_TOKEN {
            return Err(damaged);
        }
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| damaged)?;
        let (body, check) = bytes.split_at_checked(bytes.len().saturating_sub(CHECK)).ok_or(damaged)?;
        if check != &blake3::hash(body).as_bytes()[..CHECK] {
            return Err(damaged);
        }
        let body: Body = serde_json::from_slice(body).map_err(|_| damaged)?;
        let raw = |text: &str| -> Result<[u8; 32], InvalidToken> {
            BASE64URL_NOPAD.decode(text.as_bytes()).ok().and_then(|b| b.try_into().ok()).ok_or(damaged)
        };
        Ok(Self { authority: raw(&body.c)?, secret: raw(&body.s)?, name: body.n, address: body.a, expires: body.e })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            name: "north".parse().unwrap(),
            address: "coordinator.example.org:7443".into(),
            authority: [7; 32],
            secret: [9; 32],
            expires: 1_800_000_000_000,
        }
    }

    #[test]
    fn a_token_survives_its_text_and_hides_its_secret() {
        let text = token().reveal();
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        let secret = BASE64URL_NOPAD.encode(&[9; 32]);
        let shown = format!("{:?}", token());
        assert!(shown.contains("north") && !shown.contains(&secret) && !shown.contains("9, 9"), "{shown}");
    }

    #[test]
    fn a_token_with_any_character_changed_or_missing_is_refused() {
        let text = token().reveal();
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(String::from_utf8(other).unwrap().parse::<Token>(), Err(InvalidToken::Damaged), "{at}");
            assert_eq!(text[..at].parse::<Token>(), Err(InvalidToken::Damaged), "{at}");
        }
        for bad in ["", "hello", "tessera2.AAAA"] {
            assert_eq!(bad.parse::<Token>(), Err(InvalidToken::Prefix));
        }
    }

    #[test]
    fn a_certificate_serves_its_names_and_what_begins_as_a_pattern() {
        let serves = |patterns: &[&str], name: &str| {
            super::serves(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), &name.parse().unwrap())
        };
        assert!(serves(&["north"], "north") && serves(&["a", "ward-*"], "ward-3") && serves(&["*"], "any"));
        assert!(!serves(&["north"], "north2") && !serves(&["ward-*"], "ward") && !serves(&[], "any"));
    }

    #[test]
    fn roles_have_names() {
        for (role, name) in ROLES {
            assert_eq!((role.name(), name.parse()), (name, Ok(role)));
        }
        assert!("root".parse::<Role>().unwrap_err().contains("member, evaluator, observer, admin"));
    }
}
