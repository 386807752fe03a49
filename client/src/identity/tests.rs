//! Enrolment and renewal against a coordinator that a test speaks for.

pub(super) use coordinator::authority;

mod coordinator;

use super::*;
use coordinator::{Coordinator, Says};
use std::fs;

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const COMPLETE: [&str; 4] = ["authorities.pem", "cert.pem", "identity.toml", "key.pem"];

#[tokio::test]
async fn a_token_gives_an_identity_that_is_there_after_a_restart() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(&dir.path().join("north.state"));
    assert!(Identity::load(&folder).unwrap().is_none());
    let identity = enrol(&coordinator.token(), &folder).await.unwrap();
    assert_eq!((identity.name().as_str(), identity.role()), ("north", Role::Member));
    assert_eq!(files(&folder), COMPLETE);
    #[cfg(unix)]
    for (path, mode) in [("key.pem", 0o600), ("cert.pem", 0o600), ("", 0o700)] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
    }
    let again = Identity::load(&folder).unwrap().unwrap();
    assert_eq!(
        (again.name(), again.expires(), again.coordinator()),
        (identity.name(), identity.expires(), coordinator.address())
    );
    assert!(again.trusts(&coordinator.token().authority) && !again.trusts(&[0; 32]));
    let shown = format!("{identity:?}");
    assert!(shown.contains("north") && !shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn a_renewed_certificate_is_for_the_next_connection_and_the_next_start() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    coordinator.renew_in(3_600_000);
    let identity = enrol(&coordinator.token(), dir.path()).await.unwrap();
    let tls = identity.tls();
    let dial = Dial::Tcp { address: coordinator.address(), host: "localhost".into(), tls: Some(tls.clone()) };
    let channel = dial.connect(&Heard::default()).await.unwrap();
    assert!(!identity.renew_if_due(&channel).await.unwrap(), "an hour is left");
    let pause = identity.renew_at().abs_diff(now());
    assert!((3_590_000..=3_610_000).contains(&pause), "{pause}");

    coordinator.renew_in(0);
    let due = enrol(&coordinator.token(), dir.path()).await.unwrap();
    let (key, before) = (fs::read(dir.path().join("key.pem")).unwrap(), due.tls().now());
    let dial = Dial::Tcp { address: coordinator.address(), host: "localhost".into(), tls: Some(due.tls()) };
    let channel = dial.connect(&Heard::default()).await.unwrap();
    coordinator.renew_in(3_600_000);
    assert!(due.renew_if_due(&channel).await.unwrap());
    assert_ne!(fs::read(dir.path().join("key.pem")).unwrap(), key, "a key of its own for each certificate");
    assert!(!Arc::ptr_eq(&due.tls().now(), &before));
    assert_eq!(files(dir.path()), COMPLETE);
    let keys = coordinator.keys();
    assert_eq!(keys.len(), 3, "each is asked for once");
    let again = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!(again.state().public_key, *keys.last().unwrap());
    assert!(again.renew_at() > now());
    // what was made before the renewal uses the new certificate
    dial.connect(&Heard::default()).await.unwrap();
    assert!(coordinator.has_seen(keys.last().unwrap()).await);
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_tried_again_later() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    coordinator.renew_in(0);
    let identity = enrol(&coordinator.token(), dir.path()).await.unwrap();
    let dial = Dial::Tcp { address: coordinator.address(), host: "localhost".into(), tls: Some(identity.tls()) };
    let channel = dial.connect(&Heard::default()).await.unwrap();
    coordinator.says(Says::No("member north is revoked (left)"));
    let status = identity.renew_if_due(&channel).await.unwrap_err();
    assert_eq!(status.message(), "member north is revoked (left)");
    assert!(identity.renew_at() > now(), "not at once");
    assert!(!identity.renew_if_due(&channel).await.unwrap());
    assert_eq!(Identity::load(dir.path()).unwrap().unwrap().expires(), identity.expires(), "the old one stays");
}

#[tokio::test]
async fn a_crash_before_the_certificate_leaves_a_key_for_the_next_attempt() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    coordinator.says(Says::No("no"));
    let error = enrol(&coordinator.token(), dir.path()).await.unwrap_err().to_string();
    assert_eq!(error, format!("the coordinator at {} refuses: no", coordinator.address()));
    assert_eq!(files(dir.path()), ["key.next.pem"]);
    // half a file of a crash
    fs::write(dir.path().join("cert.pem.tmp"), "-----BEGIN").unwrap();
    fs::write(dir.path().join("key.next.pem.tmp"), "-----BEGIN").unwrap();
    assert!(Identity::load(dir.path()).unwrap().is_none());
    coordinator.says(Says::Yes);
    enrol(&coordinator.token(), dir.path()).await.unwrap();
    let keys = coordinator.keys();
    assert_eq!(keys[0], keys[1], "the same key both times");
}

// Should: go on with the new certificate, whose key has its old name still. Should not: use that key for the next one.
#[tokio::test]
async fn a_crash_between_certificate_and_key_loses_nothing() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    enrol(&coordinator.token(), dir.path()).await.unwrap();
    fs::rename(dir.path().join("key.pem"), dir.path().join("key.next.pem")).unwrap();
    fs::write(dir.path().join("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let identity = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!(identity.state().public_key, coordinator.keys()[0]);
    enrol(&coordinator.token(), dir.path()).await.unwrap();
    let keys = coordinator.keys();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(Identity::load(dir.path()).unwrap().unwrap().state().public_key, keys[1]);
}

#[tokio::test]
async fn a_folder_that_is_damaged_is_told() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in
        [("cert.pem", "there is no certificate in it"), ("key.pem", "no key fits cert.pem"), ("identity.toml", "toml")]
    {
        enrol(&coordinator.token(), dir.path()).await.unwrap();
        fs::write(dir.path().join(file), "hello").unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is damaged: ") && error.contains(text), "{error}");
        assert!(error.ends_with("remove that folder and get a new token with `tessera enrol NAME`"), "{error}");
    }
    enrol(&coordinator.token(), dir.path()).await.unwrap();
    assert!(Identity::load(dir.path()).unwrap().is_some(), "a token mends it");
}

#[tokio::test]
async fn the_secret_goes_to_nobody_but_the_coordinator_of_the_token() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    let forged = Token { authority: [7; 32], ..coordinator.token() };
    let error = enrol(&forged, dir.path()).await.unwrap_err();
    assert!(matches!(&error, IdentityError::Tls(text) if text.starts_with("wrong fingerprint: the token names")), "{error:?}");
    assert!(coordinator.keys().is_empty(), "nothing was sent");
    assert_eq!(files(dir.path()), ["key.next.pem"]);
}

#[tokio::test]
async fn a_host_that_is_not_in_the_certificate_is_told_with_those_that_are() {
    let coordinator = Coordinator::start(&["coordinator.example.org"]).await;
    let dir = tempfile::tempdir().unwrap();
    let error = enrol(&coordinator.token(), dir.path()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the certificate of the coordinator at {} is not for localhost: it has coordinator.example.org. Use one of these as the \
             coordinator's address, or restart the coordinator with `--name localhost`",
            coordinator.address()
        )
    );
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_or_speaks_no_tls_is_told() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let token = Token { address: address.clone(), ..coordinator.token() };
    let answers = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
    });
    let error = enrol(&token, dir.path()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{address} does not speak TLS: it may be a coordinator in plaintext")), "{error}");
    let error = enrol(&token, dir.path()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{address} closes the connection instead of a TLS handshake")), "{error}");
    answers.await.unwrap();
    let error = enrol(&token, dir.path()).await.unwrap_err();
    assert!(matches!(&error, IdentityError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().ends_with("the token is not used up"), "{error}");
}

#[tokio::test]
async fn an_agent_in_plaintext_is_told_of_tls() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dial = Dial::Tcp { address: coordinator.address(), host: "localhost".into(), tls: None };
    let outcome = match dial.connect(&Heard::default()).await {
        Ok(channel) => EnrolmentClient::new(channel).renew(RenewRequest::default()).await.map(drop).map_err(|e| causes(&e)),
        Err(error) => Err(causes(&error)),
    };
    let text = outcome.unwrap_err();
    assert!(
        text.contains(&format!("the coordinator at {} speaks TLS, and this agent has no certificate", coordinator.address())),
        "{text}"
    );
}

// TLS 1.3 tells the agent only after its handshake.
#[tokio::test]
async fn a_certificate_that_is_refused_is_told_with_what_to_do() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    let identity = enrol(&coordinator.token(), dir.path()).await.unwrap();
    coordinator.trust(authority("another"));
    let dial = Dial::Tcp { address: coordinator.address(), host: "localhost".into(), tls: Some(identity.tls()) };
    let outcome = match dial.connect(&Heard::default()).await {
        Ok(channel) => EnrolmentClient::new(channel).renew(RenewRequest::default()).await.map(drop).map_err(|e| causes(&e)),
        Err(error) => Err(causes(&error)),
    };
    let text = outcome.unwrap_err();
    let told = "does not know the authority of this agent's certificate (north): get a new token with `tessera enrol north`";
    assert!(text.contains(told), "{text}");
}

#[tokio::test]
async fn credentials_that_do_not_fit_are_refused() {
    let coordinator = Coordinator::start(&["localhost"]).await;
    let dir = tempfile::tempdir().unwrap();
    for (says, text) in [
        (Says::OtherName, "they are for \"south\" instead of north"),
        (Says::OtherKey, "the certificate is for another key"),
        (Says::Nothing, "0 of kind certificate; there must be 1 to 16"),
        (Says::Garbage, "no certificate: "),
    ] {
        coordinator.says(says);
        let error = enrol(&coordinator.token(), dir.path()).await.unwrap_err();
        assert!(matches!(&error, IdentityError::Answer { why, .. } if why.contains(text)), "{error:?}");
        assert_eq!(files(dir.path()), ["key.next.pem"]);
    }
}

#[test]
fn dates_of_headers_are_read() {
    assert_eq!(date_ms("Tue, 15 Nov 1994 08:12:31 GMT"), Some(784_887_151_000));
    assert_eq!(date_ms("yesterday"), None);
}
