//! Every decoder of what comes from outside, and what must hold for any bytes at all: none panics or hangs, and what is
//! taken is written again as something that means the same.
//!
//! The fuzz targets (`fuzz_targets/NAME.rs`) and `tests/corpus.rs` of the workspace share this file.

use prost::Message;
use tessera_common::access::Token;
use tessera_common::audit::{self, Head};
use tessera_common::id::{AgentName, Digest, MemberName, RunId};
use tessera_common::param::{CodecError, Layout, Limits, ParamSet};
use tessera_common::round::{Assignment, MemberInfo};
use tessera_common::spec::{RunSpec, duration};
use tessera_common::update::UpdateRef;
use tessera_proto::{convert, v1};

#[cfg(feature = "client")]
#[path = "decoders/client.rs"]
mod client;
#[cfg(feature = "server")]
#[path = "decoders/server.rs"]
mod server;

/// Takes any bytes; panics if something does not hold.
pub type Decoder = fn(&[u8]);

/// Those that coordinator and agent share.
pub const DECODERS: &[(&str, Decoder)] = &[
    ("audit", audit_log),
    ("audit_entry", audit_entry),
    ("params", params),
    ("params_header", params_header),
    ("spec", spec),
    ("text", text),
    ("token", token),
    ("token_body", token_body),
    ("wire_admin", wire_admin),
    ("wire_agent", wire_agent),
    ("wire_coordinator", wire_coordinator),
    ("wire_enrol", wire_enrol),
    ("wire_upload", wire_upload),
];

/// Those of the coordinator's files.
#[cfg(feature = "server")]
pub const SERVER_DECODERS: &[(&str, Decoder)] = &[
    ("engine", server::engine),
    ("journal", server::journal),
    ("journal_records", server::journal_records),
    ("size", server::size),
    ("snapshot", server::snapshot),
];
/// None without the coordinator.
#[cfg(not(feature = "server"))]
pub const SERVER_DECODERS: &[(&str, Decoder)] = &[];

/// Those of the agent's files.
#[cfg(feature = "client")]
pub const CLIENT_DECODERS: &[(&str, Decoder)] = &[
    ("csv", client::csv),
    ("data_spec", client::data_spec),
    ("dataset", client::dataset),
    ("jsonl", client::jsonl),
    ("manifest", client::manifest),
    ("npy", client::npy),
    ("picture", client::picture),
    ("safetensors", client::safetensors),
    ("shard", client::shard),
    ("tsv", client::tsv),
];
/// None without the agent.
#[cfg(not(feature = "client"))]
pub const CLIENT_DECODERS: &[(&str, Decoder)] = &[];

/// All that this build has.
pub fn all() -> impl Iterator<Item = (&'static str, Decoder)> {
    [DECODERS, SERVER_DECODERS, CLIENT_DECODERS].into_iter().flatten().copied()
}

/// Text of an error must fit a message and a log line, however long the input was.
fn told(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() <= 16 << 10, "an error of {} bytes: {:.300}", text.len(), text);
}

/// A parameter set: one content has one encoding.
fn params(data: &[u8]) {
    let limits = Limits::default();
    match ParamSet::from_bytes(data, &limits) {
        Err(error) => told(&error),
        Ok(set) => {
            assert_eq!(set.to_bytes(), data, "what decodes encodes to the same bytes");
            assert_eq!(set.digest(), Digest::of(data));
            assert_eq!(set.layout().total(), data.len() as u64);
            for (_, tensor) in set.iter() {
                assert_eq!(tensor.to_f64().len(), tensor.spec().elements());
            }
        }
    }
    let small = Limits { header: 512, tensors: 3, rank: 2, name: 12, bytes: 1024 };
    if let Ok(set) = ParamSet::from_bytes(data, &small) {
        assert!(set.len() <= 3 && data.len() <= 1024 && set.layout().header().len() <= 8 + 512);
        assert!(set.iter().all(|(name, tensor)| name.len() <= 12 && tensor.shape().len() <= 2));
    }
}

/// The JSON of a header, with the lengths that belong to it: what lies behind the length check.
fn params_header(json: &[u8]) {
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json);
    let limits = Limits::default();
    let found = match Layout::parse(&header, header.len() as u64, &limits) {
        Err(CodecError::Length { expected, .. }) => Layout::parse(&header, expected, &limits),
        other => other,
    };
    match found {
        Err(error) => told(&error),
        Ok(layout) => {
            assert_eq!(layout.header(), header);
            assert!(layout.total() <= limits.bytes + header.len() as u64);
            let mut end = header.len() as u64;
            for entry in layout.entries().values() {
                assert_eq!(entry.offset, end, "no gap and no overlap");
                end += entry.spec.bytes() as u64;
            }
            assert_eq!(end, layout.total());
            assert!(layout.blocks().len() <= layout.entries().len());
        }
    }
}

/// A run spec: what is taken is written as something that is taken, and is then written the same.
fn spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = RunSpec::stored(text) {
        told(&error);
    }
    match RunSpec::from_toml(text) {
        Err(error) => {
            told(&error.clone().without_position());
            told(&error);
        }
        Ok(spec) => {
            let written = spec.to_toml();
            let again = RunSpec::from_toml(&written).unwrap_or_else(|e| panic!("a spec that was taken is not read again: {e}"));
            assert_eq!(again.to_toml(), written);
        }
    }
}

/// Names, digests and durations.
fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    let names = [text.parse::<MemberName>().map(|n| n.to_string()), text.parse::<RunId>().map(|n| n.to_string())];
    let agent = text.parse::<AgentName>().map(|n| n.to_string());
    for name in names.into_iter().chain([agent]) {
        match name {
            Ok(name) => assert_eq!(name, text),
            Err(error) => told(&error),
        }
    }
    match duration(text) {
        Err(error) => told(&error),
        Ok(d) if d.as_secs() <= 30 * 86_400 => {
            let millis = std::time::Duration::from_millis(d.as_millis() as u64);
            assert_eq!(duration(&format!("{}ms", d.as_millis())), Ok(millis));
        }
        Ok(_) => {}
    }
    let mut table = toml::Table::new();
    if let Err(error) = tessera_common::spec::set_key(&mut table, text) {
        told(&error);
    }
}

/// A token as text.
fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.reveal().parse(), Ok(token));
    }
}

/// The inside of a token, with the checksum that belongs to it.
fn token_body(body: &[u8]) {
    let mut bytes = body.to_vec();
    bytes.extend_from_slice(&Digest::of(body).as_bytes()[..4]);
    token(format!("tessera1.{}", base64(&bytes)).as_bytes());
}

/// Base64 for URLs, without padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - group.len()));
        (0..=group.len()).for_each(|i| text.push(LETTERS[(bits >> (18 - 6 * i) & 63) as usize] as char));
    }
    text
}

/// An audit log: a line that follows is the line that would be written.
fn audit_log(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut head = Head::default();
    for line in text.lines() {
        match head.follow(line) {
            Err(error) => return told(&error),
            Ok((entry, next)) => {
                let (written, same) = head.append(entry);
                assert_eq!(same, next);
                assert_eq!(head.follow(&written).map(|(_, next)| next), Ok(next));
                head = next;
            }
        }
    }
    assert_eq!(audit::verify(text.lines()), Ok(head));
}

/// Any entry that can be written can be read again, whatever texts of strangers are in it.
fn audit_entry(data: &[u8]) {
    let entry = match serde_json::from_slice::<audit::Entry>(data) {
        Ok(entry) => entry,
        // any text at all as what a stranger says of itself
        Err(_) => {
            let text = String::from_utf8_lossy(data).into_owned();
            audit::Entry { who: text.clone(), run: Some(text.clone()), verdict: text, ..audit::Entry::default() }
        }
    };
    let (line, next) = Head::default().append(entry);
    assert!(!line.contains('\n'));
    assert_eq!(Head::default().follow(&line).map(|(_, head)| head), Ok(next));
}

/// A message that decodes encodes to something that decodes to the same.
fn message<M: Message + Default>(data: &[u8]) -> Option<M> {
    let message = M::decode(data).ok()?;
    let bytes = message.encode_to_vec();
    let again = M::decode(bytes.as_slice()).unwrap_or_else(|e| panic!("an encoded message is not decoded: {e}"));
    assert_eq!(again.encode_to_vec(), bytes);
    Some(message)
}

/// What an agent says in its session.
fn wire_agent(data: &[u8]) {
    use v1::agent_message::Message as Said;
    match message::<v1::AgentMessage>(data).and_then(|m| m.message) {
        Some(Said::Hello(hello)) => {
            for wire in hello.members {
                match <(MemberName, MemberInfo)>::try_from(wire.clone()) {
                    Ok((name, info)) => assert_eq!(convert::wire_member(&name, &info), wire),
                    Err(error) => told(&error),
                }
            }
        }
        Some(Said::Answer(wire)) => match <(RunId, UpdateRef)>::try_from(wire.clone()) {
            Ok((run, update)) => assert_eq!(convert::wire_answer(&run, &update).encode_to_vec(), wire.encode_to_vec()),
            Err(error) => told(&error),
        },
        Some(Said::Failure(failure)) => {
            let _ = (convert::run_id(&failure.run), convert::member_name(&failure.member));
            assert!(convert::shorten(failure.reason).len() <= convert::MAX_REASON);
        }
        Some(Said::Heartbeat(_)) | None => {}
    }
}

/// What a coordinator says in a session.
fn wire_coordinator(data: &[u8]) {
    use v1::coordinator_message::Message as Said;
    match message::<v1::CoordinatorMessage>(data).and_then(|m| m.message) {
        Some(Said::Assignment(wire)) => match <(RunId, Assignment)>::try_from(wire.clone()) {
            Ok((run, assignment)) => assert_eq!(convert::wire_assignment(&run, &assignment), wire),
            Err(error) => told(&error),
        },
        Some(Said::RunOpened(opened)) => spec(opened.spec_toml.as_bytes()),
        _ => {}
    }
}

/// What a site without a certificate sends, and what it gets.
fn wire_enrol(data: &[u8]) {
    message::<v1::EnrolRequest>(data);
    message::<v1::RenewRequest>(data);
    message::<v1::Credentials>(data);
}

/// The parts of an upload and of a download.
fn wire_upload(data: &[u8]) {
    use v1::upload_request::Part;
    if let Some(Part::Header(header)) = message::<v1::UploadRequest>(data).and_then(|m| m.part)
        && let Ok(digest) = convert::digest(&header.digest)
    {
        assert_eq!(convert::digest_bytes(&digest), header.digest);
    }
    message::<v1::UploadStatusRequest>(data);
    message::<v1::UploadResponse>(data);
    message::<v1::DownloadRequest>(data);
    message::<v1::DownloadResponse>(data);
}

/// What operators send and get.
fn wire_admin(data: &[u8]) {
    message::<v1::SubmitRunRequest>(data);
    message::<v1::ForkRunRequest>(data);
    message::<v1::WatchRunRequest>(data);
    message::<v1::WatchRunResponse>(data);
    message::<v1::PauseRunRequest>(data);
    message::<v1::CreateTokenRequest>(data);
    message::<v1::RevokeMemberRequest>(data);
    message::<v1::ShowRunResponse>(data);
    message::<v1::ListMembersResponse>(data);
}
