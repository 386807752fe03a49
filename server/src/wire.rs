//! From what the runtime says to what the wire says. Nothing past this file and the services knows protobuf.

use crate::history::{BadEnd, EndedBadly, Happened};
use crate::identity::{Issued, Known};
use crate::runtime::{MemberView, RunDetail, RunSummary, ToAgent};
use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tessera_common::id::{Digest, MemberName, Round};
use tessera_common::round::Outcome;
use tessera_proto::convert::{digest_bytes, wire_assignment, wire_member, wire_metrics};
use tessera_proto::v1::coordinator_message::Message;
use tessera_proto::v1::watch_run_response::Event;
use tessera_proto::{VERSION, v1};

fn optional(digest: Option<Digest>) -> Bytes {
    digest.as_ref().map(digest_bytes).unwrap_or_default()
}

fn outcome_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Completed => "completed".into(),
        Outcome::Stopped => "stopped".into(),
    }
}

pub(crate) fn to_agent(message: ToAgent, sequence: u64) -> v1::CoordinatorMessage {
    let message = match message {
        ToAgent::Welcome { heartbeat_ms, time_ms } => {
            Message::Welcome(v1::Welcome { version: VERSION.into(), heartbeat_ms, time_ms })
        }
        ToAgent::RunOpened { run, spec_toml } => {
            Message::RunOpened(v1::RunOpened { run: run.into(), spec_toml: spec_toml.to_string() })
        }
        ToAgent::Assign { run, assignment } => Message::Assignment(wire_assignment(&run, &assignment)),
        ToAgent::Cancel { run, member, assignment } => {
            Message::Cancel(v1::Cancel { run: run.into(), member: member.into(), assignment: assignment.0 })
        }
        ToAgent::Verdict { run, member, assignment, refused } => {
            let accepted = refused.is_none();
            Message::Verdict(v1::Verdict { run, member, assignment, accepted, reason: refused.unwrap_or_default() })
        }
        ToAgent::RunClosed { run, outcome } => {
            Message::RunClosed(v1::RunClosed { run: run.into(), outcome: outcome_text(outcome) })
        }
        ToAgent::Heartbeat => Message::Heartbeat(v1::Heartbeat {}),
    };
    v1::CoordinatorMessage { message: Some(message), sequence }
}

pub(crate) fn happened(position: u64, happened: Happened) -> v1::WatchRunResponse {
    let event = match happened {
        Happened::Published { published, bytes_up, bytes_down } => Event::Published(v1::RoundPublished {
            round: published.round,
            global: digest_bytes(&published.digest),
            members: published.members.into_iter().map(String::from).collect(),
            metrics: wire_metrics(&published.metrics),
            bytes_up,
            bytes_down,
        }),
        Happened::Evaluated { round, statistics, metrics } => {
            Event::Evaluated(v1::RoundEvaluated { round, statistics: optional(statistics), metrics: wire_metrics(&metrics) })
        }
        Happened::Ended { member, assignment, how, reason } => {
            Event::Ended(ended_badly(EndedBadly { member, assignment, how, reason }))
        }
        Happened::Resting { member, failures, until } => Event::Resting(resting(&member, failures, until)),
        Happened::Paused { reason } => Event::Paused(v1::RunPaused { reason }),
        Happened::Resumed => Event::Resumed(v1::RunResumed {}),
        Happened::Finished(outcome) => Event::Finished(v1::RunFinished { outcome: outcome_text(outcome) }),
    };
    v1::WatchRunResponse { position, event: Some(event) }
}

fn resting(member: &MemberName, failures: u32, until: Round) -> v1::RestingMember {
    v1::RestingMember { member: member.to_string(), failures, until_round: until }
}

fn ended_badly(end: EndedBadly) -> v1::AssignmentEnded {
    let how = match end.how {
        BadEnd::Refused => "refused".into(),
        BadEnd::Failed => "failed".into(),
    };
    v1::AssignmentEnded { member: end.member.into(), assignment: end.assignment.0, how, reason: end.reason }
}

/// Counts of people's lists do not reach 2^32.
fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(crate) fn summary(s: RunSummary) -> v1::RunSummary {
    v1::RunSummary {
        run: s.run.into(),
        name: s.name,
        strategy: s.strategy,
        phase: s.phase,
        round: s.round,
        rounds: s.rounds,
        reason: s.reason,
        global: optional(s.global),
        statistics: optional(s.statistics),
        bytes_up: s.bytes_up,
        bytes_down: s.bytes_down,
        answered: count(s.answered),
        awaited: count(s.awaited),
    }
}

pub(crate) fn detail(d: RunDetail) -> v1::ShowRunResponse {
    let (evaluated_round, metrics) = d.evaluation.unwrap_or_default();
    v1::ShowRunResponse {
        summary: Some(summary(d.summary)),
        spec_toml: d.spec_toml.to_string(),
        metrics: wire_metrics(&metrics),
        evaluated_round,
        waiting: d.waiting.into_iter().map(String::from).collect(),
        tally: Some(d.tally.into()),
        bad_ends: d.bad_ends.into_iter().map(ended_badly).collect(),
        resting: d.resting.iter().map(|(member, failures, until)| resting(member, *failures, *until)).collect(),
    }
}

pub(crate) fn member(m: &MemberView, enrolled: Option<Known>) -> v1::MemberStatus {
    v1::MemberStatus {
        member: Some(wire_member(&m.member, &m.info)),
        online: m.online,
        agent: m.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        enrolled: enrolled.map(self::enrolled),
    }
}

/// A member that has enrolled or has a token, and has never joined.
pub(crate) fn not_joined(name: &MemberName, known: Known) -> v1::MemberStatus {
    let member = v1::Member { name: name.to_string(), ..v1::Member::default() };
    v1::MemberStatus { member: Some(member), enrolled: Some(enrolled(known)), ..v1::MemberStatus::default() }
}

fn enrolled(known: Known) -> v1::Enrolled {
    v1::Enrolled {
        role: known.role.to_string(),
        labels: known.labels,
        modalities: known.modalities,
        serves: known.serves,
        revoked: known.revoked.is_some(),
        revoked_reason: known.revoked.unwrap_or_default(),
        certificate_expires_ms: known.certificate_expires,
        token_expires_ms: known.token_expires,
    }
}

pub(crate) fn credentials(issued: Issued) -> v1::Credentials {
    let der = |certificates: Vec<CertificateDer<'static>>| certificates.iter().map(|c| Bytes::copy_from_slice(c)).collect();
    v1::Credentials {
        name: issued.name.to_string(),
        role: issued.role.to_string(),
        chain: der(issued.chain),
        authorities: der(issued.authorities),
        expires_ms: issued.expires,
        renew_ms: issued.renew,
    }
}

pub(crate) fn kept_global((round, digest, bytes): (Round, Digest, u64)) -> v1::KeptGlobal {
    v1::KeptGlobal { round, digest: digest_bytes(&digest), bytes }
}
