//! Identities as a whole: folders, handshakes in memory, enrolment, revocation, rotation.

mod files;

use super::*;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn now() -> Millis {
    Clock::new().now()
}

fn config(dir: &Path, names: &[&str]) -> Config {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Config { security: Security::Own { names }, ..Config::in_dir(dir) }
}

fn own(dir: &TempDir) -> Identities {
    Identities::open(&config(dir.path(), &["hub.example.org"])).unwrap()
}

fn new_token(name: &str) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        role: Role::Evaluator,
        labels: vec!["region=eu".into()],
        modalities: vec!["image".into()],
        serves: vec!["ward-*".into()],
        valid: Duration::from_secs(3600),
        address: None,
    }
}

/// A key and a request that asks for more than anybody gets.
fn request() -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let request = request_by(&key);
    (key, request)
}

fn request_by(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["admin".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.serialize_request(key).unwrap().der().to_vec()
}

struct Site {
    key: KeyPair,
    issued: Issued,
}

impl Site {
    fn enrol(identities: &Identities, name: &str) -> Self {
        let token = identities.create_token(new_token(name), now()).unwrap();
        let (key, request) = request();
        Self { key, issued: identities.enrol(&token.secret, &request, HOME, now()).unwrap() }
    }

    fn peer(&self) -> Peer {
        Peer::of(&self.issued.chain[0]).unwrap()
    }
}

fn client(trusts: &[CertificateDer<'static>], site: Option<&Site>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    trusts.iter().for_each(|root| roots.add(root.clone()).unwrap());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match site {
        None => builder.with_no_client_auth(),
        Some(site) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(site.key.serialize_der()));
            builder.with_client_auth_cert(site.issued.chain.clone(), key).unwrap()
        }
    }
}

/// What the server's and the client's side know of each other.
#[derive(Debug)]
struct Met {
    client: Option<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
}

/// A handshake without a network. The error is that of the side that refuses.
fn meet(server: Arc<ServerConfig>, client: ClientConfig, host: &str) -> Result<Met, String> {
    let mut server = ServerConnection::new(server).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|e| format!("client: {e}"))?;
        }
    }
    let owned = |chain: Option<&[CertificateDer<'_>]>| -> Vec<CertificateDer<'static>> {
        chain.unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect()
    };
    Ok(Met { client: owned(server.peer_certificates()).into_iter().next(), chain: owned(client.peer_certificates()) })
}

fn authorities(identities: &Identities) -> Vec<CertificateDer<'static>> {
    lock(identities.authority().unwrap()).trusted(now())
}

fn digest(certificate: &CertificateDer<'_>) -> String {
    hash(certificate)
}

#[test]
fn the_first_start_makes_what_the_next_starts_keep() {
    let dir = tempfile::tempdir().unwrap();
    let first = own(&dir);
    let folder = dir.path().join("identity");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let files = ["authority.pem", "authority.key", "server.pem", "server.key", "registry.json"];
    let before = files.map(read);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert!(files.iter().all(|name| mode(&folder.join(name)) == 0o600));
        fs::set_permissions(folder.join("authority.key"), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let site = Site::enrol(&first, "north");
    let again = own(&dir);
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder.join("authority.key")).unwrap().permissions()) & 0o777,
        0o600
    );
    assert_eq!(files.map(read)[..4], before[..4]);
    assert_eq!(again.status(), first.status());
    assert_eq!(again.standing(&site.peer()), first.standing(&site.peer()));
    assert!(again.standing(&site.peer()).is_ok());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), files.len(), "nothing is left over");
    let shown = format!("{again:?} {:?}", again.authority().unwrap());
    let key = String::from_utf8(read("authority.key")).unwrap();
    assert!(!shown.contains(key.lines().nth(1).unwrap()) && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn a_damaged_authority_is_named_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(own(&dir));
    let folder = dir.path().join("identity");
    let other = tempfile::tempdir().unwrap();
    drop(own(&other));
    for (name, bytes) in [
        ("authority.pem", Some(b"".to_vec())),
        ("authority.pem", Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec())),
        ("authority.key", Some(b"x".to_vec())),
        ("authority.key", Some(fs::read(other.path().join("identity/authority.key")).unwrap())),
        ("authority.key", None),
        ("authority.pem", None),
        ("registry.json", None),
        ("registry.json", Some(b"{}".to_vec())),
    ] {
        let path = folder.join(name);
        let whole = fs::read(&path).unwrap();
        match &bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = Identities::open(&config(dir.path(), &[])).unwrap_err().to_string();
        assert!(error.contains("identity") && error.contains("Restore the file from a backup"), "{name}: {error}");
        assert_eq!(fs::read(&path).ok(), bytes, "it is left as it was");
        fs::write(&path, whole).unwrap();
    }
    // What can be made again is made again.
    for name in ["server.pem", "server.key"] {
        fs::write(folder.join(name), "x").unwrap();
        assert!(own(&dir).tls().is_some());
    }
}

#[test]
fn the_certificate_is_for_the_names_and_is_made_again_when_they_change_or_it_ages() {
    let dir = tempfile::tempdir().unwrap();
    let first = own(&dir);
    let trusts = authorities(&first);
    for host in ["hub.example.org", "localhost", "127.0.0.1", "::1"] {
        let met = meet(first.tls().unwrap(), client(&trusts, None), host).unwrap();
        assert_eq!(met.client, None);
        assert!(met.chain.iter().any(|c| digest(c) == first.status().1), "the pinned authority is shown");
    }
    let error = meet(first.tls().unwrap(), client(&trusts, None), "other.example.org").unwrap_err();
    assert!(error.contains("other.example.org"), "{error}");
    let renamed = Identities::open(&config(dir.path(), &["other.example.org"])).unwrap();
    assert!(meet(renamed.tls().unwrap(), client(&trusts, None), "other.example.org").is_ok());
    let kept = fs::read(dir.path().join("identity/server.pem")).unwrap();
    renamed.refresh(now() + 59 * 86_400_000);
    assert_eq!(fs::read(dir.path().join("identity/server.pem")).unwrap(), kept);
    renamed.refresh(now() + 61 * 86_400_000);
    assert_ne!(fs::read(dir.path().join("identity/server.pem")).unwrap(), kept);
    assert!(renamed.status().0 > now() + 150 * 86_400_000);
}

#[test]
fn a_site_enrols_with_its_token_alone() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    identities.listens("0.0.0.0:7443".parse().unwrap());
    let token = identities.create_token(new_token("north"), now()).unwrap();
    assert_eq!((token.address.as_str(), hex(&token.authority)), ("hub.example.org:7443", identities.status().1));
    let known = identities.known();
    assert_eq!(known[&token.name].token_expires, token.expires);
    let text = fs::read_to_string(dir.path().join("identity/registry.json")).unwrap();
    assert!(!text.contains(&hex(&token.secret)) && text.contains(&hash(&token.secret)));

    let identities = own(&dir);
    let (key, request) = request();
    let at = now();
    let issued = identities.enrol(&token.secret, &request, HOME, at).unwrap();
    assert_eq!((issued.name.as_str(), issued.role), ("north", Role::Evaluator));
    assert_eq!(issued.expires / 1000, at / 1000 + 86_400);
    assert_eq!(issued.renew, at + (issued.expires - at) / 3 * 2);
    let site = Site { key, issued };
    let peer = site.peer();
    assert_eq!(
        (peer.name.as_str(), &peer.serves[..], peer.expires),
        ("north", &["north".into(), "ward-*".into()][..], site.issued.expires)
    );
    let standing = identities.standing(&peer).unwrap();
    let granted = Standing { role: Role::Evaluator, labels: vec!["region=eu".into()], modalities: vec!["image".into()] };
    assert_eq!(standing, granted);
    assert_eq!(identities.labels("ward-7"), ["region=eu"]);
    assert!(identities.labels("south").is_empty());
    let met = meet(identities.tls().unwrap(), client(&site.issued.authorities, Some(&site)), "localhost").unwrap();
    assert_eq!(met.client.as_ref(), Some(&site.issued.chain[0]));
    // A site's certificate is no server's.
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(site.key.serialize_der()));
    let posing = tls::assemble(site.issued.chain.clone(), key, tls::roots(authorities(&identities)).unwrap()).unwrap();
    assert!(meet(posing, client(&site.issued.authorities, None), "north").unwrap_err().starts_with("client: "));
}

#[test]
fn tokens_that_are_wrong_used_expired_or_revoked_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let (_, request) = request();
    let at = now();
    let token = |name: &str| identities.create_token(new_token(name), at).unwrap();
    let enrol =
        |secret: &[u8], at| identities.enrol(secret, &request, HOME, at).map(|issued| issued.name).map_err(|e| e.to_string());
    let north = token("north");
    let error = identities.enrol(&north.secret, b"no request", HOME, at).unwrap_err();
    assert!(matches!(error, Denied::Request(_)), "{error}");
    let error = enrol(&north.secret, north.expires).unwrap_err();
    assert!(error.contains("the token for north expired at ") && error.contains("`tessera enrol north`"), "{error}");
    assert_eq!(enrol(&north.secret, north.expires - 1), Ok(north.name.clone()), "a failed attempt leaves it good");
    assert_eq!(enrol(&north.secret, at), Ok(north.name.clone()), "the same key: the answer may have been lost");
    let other = request_by(&KeyPair::generate().unwrap());
    let error = identities.enrol(&north.secret, &other, HOME, at).unwrap_err().to_string();
    assert!(error.contains("was used already at ") && error.contains("`tessera enrol north`"), "{error}");
    let error = enrol(&[7; 32], at).unwrap_err();
    assert!(error.contains("knows no such token") && error.contains("`tessera enrol NAME`"), "{error}");
    assert!(enrol(b"short", at).unwrap_err().contains("32 bytes"));
    let newer = token("north");
    let later = request_by(&KeyPair::generate().unwrap());
    identities.enrol(&newer.secret, &later, HOME, at).unwrap();
    let error = enrol(&north.secret, at).unwrap_err();
    assert!(error.contains("was used already"), "a newer enrolment ends what an older token could do: {error}");
    let south = token("south");
    identities.revoke(&south.name, "").unwrap();
    let error = enrol(&south.secret, at).unwrap_err();
    assert!(error.contains("knows no such token"), "the token ends with its name: {error}");
    let error = identities.create_token(new_token("south"), at).unwrap_err();
    assert!(matches!(error, Denied::Revoked { .. }), "{error}");
    for _ in 0..8 {
        drop(enrol(&[8; 32], at));
    }
    let error = enrol(&token("west").secret, at).unwrap_err();
    assert!(error.contains("too many wrong tokens came from 127.0.0.1"), "{error}");
    assert!(enrol(&token("west").secret, at + 60_000).is_ok());
}

#[test]
fn only_keys_that_every_side_can_check_are_signed() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let token = identities.create_token(new_token("north"), now()).unwrap();
    let p384 = request_by(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
    let mut forged = request().1;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for (bad, why) in [(p384, "P-256 or Ed25519"), (forged, ""), (vec![0x30; 20_000], "longer than"), (Vec::new(), "")] {
        let error = identities.enrol(&token.secret, &bad, HOME, now()).unwrap_err();
        assert!(matches!(&error, Denied::Request(text) if text.contains(why)), "{error}");
    }
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issued = identities.enrol(&token.secret, &request_by(&key), HOME, now()).unwrap();
    let site = Site { key, issued };
    assert!(meet(identities.tls().unwrap(), client(&site.issued.authorities, Some(&site)), "localhost").is_ok());
}

#[test]
fn certificates_of_strangers_and_ended_ones_fail_in_the_handshake() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (identities, strangers) = (own(&dir), own(&other));
    let trusts = authorities(&identities);
    let stranger = Site::enrol(&strangers, "north");
    let error = meet(identities.tls().unwrap(), client(&trusts, Some(&stranger)), "localhost").unwrap_err();
    assert!(error.starts_with("server: "), "{error}");
    let long_ago = now() - 3 * 86_400_000;
    for (at, why) in [(long_ago, "expired"), (now() + 3_600_000, "not valid yet")] {
        let token = identities.create_token(new_token("south"), at).unwrap();
        let (key, request) = request();
        let site = Site { key, issued: identities.enrol(&token.secret, &request, HOME, at).unwrap() };
        let error = meet(identities.tls().unwrap(), client(&trusts, Some(&site)), "localhost").unwrap_err();
        assert!(error.starts_with("server: ") && error.contains(why), "{error}");
    }
}

#[test]
fn revocation_holds_at_once_and_over_restarts_until_it_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let site = Site::enrol(&identities, "north");
    let (name, peer) = (site.issued.name.clone(), site.peer());
    let mut cut = identities.revocations();
    identities.revoke(&name, " laptop\nlost ").unwrap();
    assert_eq!(cut.try_recv(), Ok(name.clone()));
    let expected =
        "member north is revoked (laptop lost); the coordinator's operator can undo it: tessera members unrevoke north";
    for identities in [identities, own(&dir)] {
        assert_eq!(identities.standing(&peer).unwrap_err().to_string(), expected);
        assert_eq!(identities.renew(&peer, &request().1, now()).unwrap_err().to_string(), expected);
        assert_eq!(identities.is_revoked(&name).as_deref(), Some("laptop lost"));
        assert_eq!(identities.known()[&name].revoked.as_deref(), Some("laptop lost"));
    }
    let identities = own(&dir);
    identities.unrevoke(&name).unwrap();
    assert!(identities.standing(&peer).is_ok() && identities.is_revoked(&name).is_none());
    assert!(own(&dir).standing(&peer).is_ok());
    let nobody = "nobody".parse().unwrap();
    for outcome in [identities.revoke(&nobody, ""), identities.unrevoke(&nobody)] {
        assert!(outcome.unwrap_err().to_string().contains("there is no member nobody"));
    }
}

#[test]
fn a_revocation_that_cannot_be_written_holds_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let site = Site::enrol(&identities, "north");
    fs::create_dir(dir.path().join("identity/registry.json.tmp")).unwrap();
    assert!(matches!(identities.revoke(&site.issued.name, "x"), Err(Denied::Disk(_))));
    assert!(matches!(identities.standing(&site.peer()), Err(Denied::Revoked { .. })));
    // A token that could not be noted as used gives nothing.
    let south = new_token("south");
    assert!(matches!(identities.create_token(south, now()), Err(Denied::Disk(_))));
}

#[test]
fn a_certificate_is_renewed_and_an_earlier_enrolment_ends_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let site = Site::enrol(&identities, "north");
    let later = now() + 16 * 3_600_000;
    let renewed = identities.renew(&site.peer(), &request().1, later).unwrap();
    let next = Peer::of(&renewed.chain[0]).unwrap();
    assert_eq!((renewed.expires / 1000, next.name.as_str()), (later / 1000 + 86_400, "north"));
    assert_eq!(next.serves, site.peer().serves);
    assert_ne!(next.serial, site.peer().serial);
    assert!(identities.standing(&next).is_ok() && identities.standing(&site.peer()).is_ok(), "both are good for a while");
    assert_eq!(own(&dir).known()[&next.name].certificate_expires, renewed.expires);
    let error = identities.renew(&site.peer(), &request().1, site.issued.expires).unwrap_err().to_string();
    assert!(error.contains("the certificate of north ended at ") && error.contains("the coordinator's clock says"), "{error}");

    let mut cut = identities.revocations();
    let again = Site::enrol(&identities, "north");
    assert_eq!(cut.try_recv(), Ok(next.name.clone()));
    for old in [&next, &site.peer()] {
        let error = identities.standing(old).unwrap_err().to_string();
        assert!(error.contains("north enrolled again with a new token"), "{error}");
        assert!(identities.renew(old, &request().1, now()).is_err());
    }
    assert!(identities.standing(&again.peer()).is_ok());
    let stranger = Peer { name: "south".parse().unwrap(), ..again.peer() };
    assert!(identities.standing(&stranger).unwrap_err().to_string().contains("`tessera enrol south`"));
}

#[test]
fn a_new_authority_is_trusted_by_who_knows_the_old_one_and_takes_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let first = authorities(&identities);
    assert_eq!(identities.status().1, digest(&first[0]));
    let old_site = Site::enrol(&identities, "north");
    let pending = identities.create_token(new_token("east"), now()).unwrap();
    for change in 1..=3 {
        identities.rotate(true, now()).unwrap();
        assert_ne!(identities.status().1, digest(&first[0]));
        for identities in [identities.clone(), own(&dir)] {
            let config = || identities.tls().unwrap();
            // One that trusts only the first authority, and one that trusts only the newest.
            let newest = &authorities(&identities)[..1];
            let met = meet(config(), client(&first, Some(&old_site)), "localhost").unwrap();
            assert!(met.chain.iter().any(|c| digest(c) == hex(&pending.authority)), "a token's authority is still shown");
            assert!(meet(config(), client(newest, Some(&old_site)), "localhost").is_ok(), "change {change}");
            assert!(identities.standing(&old_site.peer()).is_ok());
        }
    }
    let site = Site::enrol(&identities, "south");
    assert_eq!(site.issued.authorities.len(), 4);
    assert!(meet(identities.tls().unwrap(), client(&site.issued.authorities[..1], Some(&site)), "localhost").is_ok());
    let (key, request) = request();
    let renewed = Site { key, issued: identities.renew(&old_site.peer(), &request, now()).unwrap() };
    assert!(meet(identities.tls().unwrap(), client(&first, Some(&renewed)), "localhost").is_ok());
    let before = authorities(&identities);
    let error = identities.rotate(true, now()).unwrap_err();
    assert!(error.to_string().contains("would cut off sites that have not renewed"), "{error}");
    assert_eq!(authorities(&identities), before, "nothing changed");
    identities.rotate(true, now() + 25 * 3_600_000).unwrap();
    assert_eq!(authorities(&identities).len(), 4, "the oldest is not trusted any more");
    assert!(!authorities(&identities).contains(&first[0]));
}

#[test]
fn a_new_server_certificate_alone_keeps_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let (before, served) = (identities.status().1, fs::read(dir.path().join("identity/server.pem")).unwrap());
    identities.rotate(false, now()).unwrap();
    assert_eq!(identities.status().1, before);
    assert_ne!(fs::read(dir.path().join("identity/server.pem")).unwrap(), served);
    // Ten years later a new authority comes by itself, and certificates never outlive theirs.
    let late = now() + 3500 * 86_400_000;
    identities.refresh(late);
    assert_ne!(identities.status().1, before);
    assert!(identities.status().0 > late + 80 * 86_400_000);
}

#[test]
fn a_change_of_authority_that_a_crash_interrupts_is_done_or_undone() {
    let dir = tempfile::tempdir().unwrap();
    let identities = own(&dir);
    let folder = dir.path().join("identity");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let old = ["authority.pem", "authority.key"].map(read);
    identities.rotate(true, now()).unwrap();
    let new = ["authority.pem", "authority.key"].map(read);
    // (in place, beside) of certificates and key; whether the new authority is there afterwards
    type Case<'a> = ([&'a [u8]; 2], [Option<&'a [u8]>; 2], bool);
    let cases: [Case<'_>; 5] = [
        ([&old[0], &old[1]], [Some(&new[0]), None], false),
        ([&old[0], &old[1]], [Some(&new[0][..40]), None], false),
        ([&old[0], &old[1]], [Some(&new[0]), Some(&new[1])], false),
        ([&old[0], &new[1]], [Some(&new[0]), None], true),
        ([&new[0], &new[1]], [None, None], true),
    ];
    for (place, beside, changed) in cases {
        for (i, name) in ["authority.pem", "authority.key"].iter().enumerate() {
            fs::write(folder.join(name), place[i]).unwrap();
            if let Some(bytes) = beside[i] {
                fs::write(folder.join(format!("{name}.next")), bytes).unwrap();
            }
        }
        drop(own(&dir));
        let expected = if changed { &new } else { &old };
        assert_eq!(&["authority.pem", "authority.key"].map(read), expected);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 5);
    }
}
