//! Certificates of an authority of the operator's, in files that change.

use super::*;

struct Files {
    dir: TempDir,
    files: TlsFiles,
    ca: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let path = |name: &str| dir.path().join(name);
        let files = TlsFiles { cert: path("cert.pem"), key: path("key.pem"), client_ca: path("ca.pem") };
        fs::write(&files.client_ca, ca.pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let made = Self { dir, files, ca: ca.into(), issuer };
        made.place("one.example.org", 1);
        made
    }

    fn place(&self, host: &str, tick: u64) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.write(&self.files.cert, &cert.pem(), tick);
        self.write(&self.files.key, &key.serialize_pem(), tick);
    }

    /// Writes with a time of change of its own: a quick test would have equal ones.
    fn write(&self, path: &Path, text: &str, tick: u64) {
        fs::write(path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + tick);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    fn site(&self, name: &str) -> Site {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["ward-*".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let cert: CertificateDer<'static> = params.signed_by(&key, &self.issuer).unwrap().into();
        let chain = vec![cert];
        let issued =
            Issued { name: name.parse().unwrap(), role: Role::Member, chain, authorities: Vec::new(), expires: 0, renew: 0 };
        Site { key, issued }
    }

    fn open(&self) -> Identities {
        let data = self.dir.path().join("data");
        Identities::open(&Config { security: Security::Files(self.files.clone()), ..Config::in_dir(data) }).unwrap()
    }
}

#[test]
fn changed_files_are_taken_and_bad_ones_leave_the_old() {
    let files = Files::new();
    let identities = files.open();
    let meets = |host: &str| meet(identities.tls().unwrap(), client(std::slice::from_ref(&files.ca), None), host).is_ok();
    assert!(meets("one.example.org") && identities.status().0 > 0 && identities.status().1.is_empty());
    files.place("two.example.org", 2);
    assert!(meets("one.example.org"), "not before the next look");
    identities.refresh(0);
    assert!(meets("two.example.org") && !meets("one.example.org"));
    let whole = fs::read_to_string(&files.files.cert).unwrap();
    for bad in ["", "x", &whole[..whole.len() / 2]] {
        files.write(&files.files.cert, bad, 3 + bad.len() as u64);
        identities.refresh(0);
        assert!(meets("two.example.org"), "{bad:?}");
    }
    fs::remove_file(&files.files.cert).unwrap();
    identities.refresh(0);
    assert!(meets("two.example.org"));
    files.place("three.example.org", 9999);
    identities.refresh(0);
    assert!(meets("three.example.org"));
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_every_second() {
    let files = Files::new();
    let identities = files.open();
    let task = tokio::spawn(identities.clone().keep_fresh());
    files.place("two.example.org", 2);
    tokio::time::sleep(LOOK * 2).await;
    assert!(meet(identities.tls().unwrap(), client(std::slice::from_ref(&files.ca), None), "two.example.org").is_ok());
    task.abort();
}

#[test]
fn certificates_of_an_authority_of_the_operators_are_members_that_can_be_revoked() {
    let files = Files::new();
    let identities = files.open();
    let site = files.site("north");
    let met = meet(identities.tls().unwrap(), client(std::slice::from_ref(&files.ca), Some(&site)), "one.example.org").unwrap();
    let peer = Peer::of(&met.client.unwrap()).unwrap();
    assert!(peer.may_serve(&"ward-3".parse().unwrap()));
    assert_eq!(identities.standing(&peer).unwrap().role, Role::Member);
    identities.revoke(&peer.name, "moved").unwrap();
    for identities in [identities, files.open()] {
        assert!(identities.standing(&peer).unwrap_err().to_string().contains("north is revoked (moved)"));
    }
    let identities = files.open();
    identities.unrevoke(&peer.name).unwrap();
    assert!(identities.standing(&peer).is_ok() && identities.known().is_empty());
    let error = identities.create_token(new_token("north"), now()).unwrap_err();
    assert_eq!(error, Denied::NoAuthority);
    assert_eq!(identities.rotate(true, now()), Err(Denied::NoAuthority));
    assert_eq!(identities.renew(&peer, &[], now()).unwrap_err(), Denied::NoAuthority);
}

#[test]
fn plaintext_has_no_identities() {
    let identities = Identities::open(&Config::in_memory()).unwrap();
    assert!(identities.plaintext() && identities.tls().is_none());
    assert_eq!(identities.create_token(new_token("north"), now()).unwrap_err(), Denied::Plaintext);
    assert_eq!(identities.revoke(&"north".parse().unwrap(), ""), Err(Denied::Plaintext));
    assert_eq!(identities.status(), (0, String::new()));
}
