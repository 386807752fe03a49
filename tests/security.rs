//! Security with the real binary: sites that enrol with tokens, attempts that must fail, and an honest run beside them.
//!
//! `just security` runs the long ones and prints the figures of docs/security.md.

// A test may panic, and no test uses all of what the tests share.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    dead_code,
    unreachable_pub,
    missing_debug_implementations
)]
#![cfg(unix)]

#[path = "support/attack.rs"]
mod attack;
#[path = "support/federation.rs"]
mod federation;

use attack::Credentials;
use federation::{Federation, SMALL, Setup, Victim};
use std::path::Path;
use std::time::{Duration, Instant};
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::watch_run_response::Event;
use tessera_proto::v1::{DownloadRequest, EnrolRequest, ListRunsRequest, StopRunRequest, UploadStatusRequest};
use tessera_proto::v1::{admin_client::AdminClient, enrolment_client::EnrolmentClient};
use tonic::Code;

fn secure(setup: Setup) -> Setup {
    Setup { secure: true, ..setup }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolled_sites_give_the_model_that_plaintext_gives() {
    let plain = Federation::started(SMALL).await;
    let reference = plain.run("run").await;
    let federation = Federation::started(secure(SMALL)).await;
    assert_eq!(federation.run("run").await, reference, "{}", federation.logs());
    for i in 0..SMALL.agents {
        let identity = federation.dir.path().join(format!("agent-{i}.state/identity"));
        for name in ["key.pem", "cert.pem", "authorities.pem"] {
            assert!(identity.join(name).exists(), "{name}");
        }
        assert_eq!(mode(&identity.join("key.pem")), 0o600);
    }
    assert_eq!(mode(&federation.data().join("identity/authority.key")), 0o600);
}

/// A new identity, as `tessera join` makes it.
async fn joined(federation: &Federation, name: &str, words: &[&str]) -> Credentials {
    Credentials::in_dir(&federation.join(&federation.enrol(name, words).await, name).await)
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

// Should: refuse each of them, and say why. Should not: let one in by any door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_no_right_gets_nothing() {
    let federation = Federation::started(secure(SMALL)).await;
    let end = federation.run("run").await;
    let address = federation.address.clone().unwrap();
    let authority = std::fs::read_to_string(federation.data().join("identity/authority.pem")).unwrap();
    let key = std::fs::read_to_string(federation.data().join("identity/authority.key")).unwrap();
    let ask = async |credentials: Option<&Credentials>| {
        let channel = attack::dial(&address, &authority, credentials).await.map_err(|e| e.to_string())?;
        let request = UploadStatusRequest { digest: vec![0; 32].into() };
        FederationClient::new(channel).upload_status(request).await.map_err(|s| s.message().to_owned())
    };

    let text = ask(None).await.unwrap_err();
    assert!(text.contains("certificate") && text.contains("tessera enrol"), "{text}");
    assert!(ask(Some(&attack::foreign("agent-0"))).await.is_err(), "a foreign authority's");
    assert!(ask(Some(&attack::expired(&authority, &key, "agent-0"))).await.is_err(), "an expired one");

    // one that is in order: enrolled as a member, but admitted to no run
    let token = federation.enrol("stranger", &[]).await;
    let stranger = Credentials::in_dir(&federation.join(&token, "stranger").await);
    ask(Some(&stranger)).await.unwrap();

    let mut enrolment = EnrolmentClient::new(attack::dial(&address, &authority, None).await.unwrap());
    let again = EnrolRequest {
        version: tessera_proto::VERSION.into(),
        secret: token.parse::<tessera_common::access::Token>().unwrap().secret.to_vec().into(),
        signing_request: attack::signing_request("stranger").into(),
    };
    let status = enrolment.enrol(again).await.unwrap_err();
    assert!(status.message().contains("used"), "{status}");

    let channel = attack::dial(&address, &authority, Some(&stranger)).await.unwrap();
    let mut admin = AdminClient::new(channel.clone());
    let status = admin.list_runs(ListRunsRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains("member") && status.message().contains("observer"), "{status}");
    let status = admin.stop_run(StopRunRequest { run: "run".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");

    let global = DownloadRequest { digest: end.global.clone().into(), offset: 0 };
    let status = FederationClient::new(channel.clone()).download(global).await.unwrap_err();
    assert!(matches!(status.code(), Code::NotFound | Code::PermissionDenied), "another's blob: {status}");

    let observer = joined(&federation, "watcher", &["--role", "observer"]).await;
    let mut admin = AdminClient::new(attack::dial(&address, &authority, Some(&observer)).await.unwrap());
    assert_eq!(admin.list_runs(ListRunsRequest {}).await.unwrap().into_inner().runs.len(), 1);
    let status = admin.stop_run(StopRunRequest { run: "run".into() }).await.unwrap_err();
    assert!(status.message().contains("observer") && status.message().contains("admin"), "{status}");
    assert!(ask(Some(&observer)).await.is_err(), "an observer is no member");

    federation.tessera(&["members", "revoke", "stranger", "--reason", "left the study"]).await.unwrap();
    let status =
        FederationClient::new(channel).upload_status(UploadStatusRequest { digest: vec![0; 32].into() }).await.unwrap_err();
    assert!(status.message().contains("revoked") && status.message().contains("left the study"), "{status}");
    assert!(ask(Some(&stranger)).await.is_err(), "revoked, over a new connection");
    federation.tessera(&["audit", "verify", &federation.data().join("audit.log").display().to_string()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_site_is_cut_off_and_stays_out_until_it_is_unrevoked() {
    let mut federation = Federation::started(secure(SMALL)).await;
    federation.run("before").await;
    let all = federation.online().await;
    let start = Instant::now();
    federation.tessera(&["members", "revoke", "agent-1"]).await.unwrap();
    let few = || async { federation.online().await < all };
    federation.eventually("being cut off", few).await;
    println!("cut off {:?} after `tessera members revoke` was started", start.elapsed());
    let served = federation.online().await;
    federation.kill(Victim::Coordinator).await;
    federation.start(Victim::Coordinator, "").await;
    federation.eventually("the return of the other site", async || federation.online().await == served).await;
    let log = || std::fs::read_to_string(federation.dir.path().join("agent-1.log")).unwrap();
    federation.eventually("a refusal after the restart", async || log().contains("tessera members unrevoke agent-1")).await;
    assert_eq!(federation.online().await, served);
    federation.tessera(&["members", "unrevoke", "agent-1"]).await.unwrap();
    federation.eventually("its return", async || federation.online().await == all).await;
    federation.run("after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotating_certificate_and_authority_disturbs_nobody() {
    let setup = secure(Setup { rounds: 12, ..SMALL });
    let mut federation = Federation::started(setup).await;
    let reference = federation.run("reference").await;
    federation.eventually("the submission", || federation.submit("run")).await;
    for (round, words) in [(2, &["certificates", "rotate"][..]), (5, &["certificates", "rotate", "--authority"][..])] {
        let out = federation.until("run", move |e| matches!(e, Event::Published(p) if p.round >= round));
        federation.within("a round", out).await;
        federation.tessera(words).await.unwrap();
    }
    // agents that trust the old authority find the coordinator again
    federation.kill(Victim::Coordinator).await;
    federation.start(Victim::Coordinator, "").await;
    federation.within("the run", federation.finished("run")).await;
    let end = federation.end("run").await;
    assert_eq!((end.global, end.statistics), (reference.global, reference.statistics));
}

// Should: write nothing that is secret, at the loudest. Should not: have nothing in its logs to look at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_hold_no_secrets() {
    let mut federation = Federation::new(secure(SMALL)).await;
    federation.log_filter = Some("trace".into());
    federation.start(Victim::Coordinator, "").await;
    for i in 0..SMALL.agents {
        federation.start(Victim::Agent(i), "").await;
    }
    federation.run("run").await;
    federation.tessera(&["members", "revoke", "agent-1"]).await.unwrap();
    let mut secrets = Vec::new();
    for i in 0..SMALL.agents {
        let text = std::fs::read_to_string(federation.dir.path().join(format!("agent-{i}.token"))).unwrap();
        let token: tessera_common::access::Token = text.trim().parse().unwrap();
        secrets.extend(attack::forms(&token.secret));
        secrets.push(text.trim()[40..80].to_owned());
        secrets.extend(attack::key_forms(&federation.dir.path().join(format!("agent-{i}.state/identity/key.pem"))));
    }
    for name in ["authority.key", "server.key"] {
        secrets.extend(attack::key_forms(&federation.data().join("identity").join(name)));
    }
    let names = ["coordinator", "agent-0", "agent-1"];
    let mut bytes = 0;
    for name in names {
        let log = std::fs::read_to_string(federation.dir.path().join(format!("{name}.log"))).unwrap();
        assert!(log.contains("TRACE"), "{name} was not loud");
        bytes += log.len();
        for secret in &secrets {
            assert!(!log.contains(secret.as_str()), "{name}.log holds a secret of {} characters", secret.len());
        }
    }
    println!("{bytes} bytes of logs, {} forms of secrets looked for", secrets.len());
}

/// Floods of every kind until the honest run is over; its end must be that of an undisturbed one.
async fn beside_floods(setup: Setup, silent: usize) {
    let federation = Federation::started(secure(setup)).await;
    let reference = federation.run("reference").await;
    let start = Instant::now();
    let alone = federation.run("alone").await;
    let alone_took = start.elapsed();
    assert_eq!(alone.global, reference.global);
    let address = federation.address.clone().unwrap();
    let authority = std::fs::read_to_string(federation.data().join("identity/authority.pem")).unwrap();
    let insider = joined(&federation, "insider", &[]).await;
    let floods = attack::floods(&address, &authority, &insider, silent);
    federation.within("the beginning of the floods", floods.underway()).await;
    let start = Instant::now();
    let disturbed = federation.run("disturbed").await;
    let took = start.elapsed();
    let counts = floods.stop().await;
    assert_eq!((disturbed.global, disturbed.statistics), (reference.global, reference.statistics), "{}", federation.logs());
    assert!(counts.silent >= silent, "{counts:?}");
    assert!(counts.header_ends > 0 && counts.gigabytes == 0 && counts.resets > 0, "{counts:?}");
    println!("{counts:?}: {:.2} of the time alone", took.as_secs_f64() / alone_took.as_secs_f64());
    // who comes anew gets in, too
    let late = joined(&federation, "late", &[]).await;
    assert!(attack::dial(&address, &authority, Some(&late)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_run_goes_on_beside_floods() {
    beside_floods(SMALL, 500).await;
}

// ---- the long ones: `just security` ----

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute, and a ratio of times: just security"]
async fn an_honest_run_goes_on_beside_ten_thousand_silent_connections() {
    beside_floods(Setup { rounds: 60, ..SMALL }, 10_000).await;
}

/// Time of a run of `rounds` rounds with two members and a model of about 10 MB.
async fn timed(federation: &Federation, run: &str) -> Duration {
    let start = Instant::now();
    federation.run(run).await;
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute, and a ratio of times: just security"]
async fn tls_costs_little() {
    let setup = Setup { members: 2, agents: 2, rounds: 10, model: "hidden = 4096, width = 300", ..SMALL };
    let plain = Federation::started(setup).await;
    let tls = Federation::started(secure(setup)).await;
    let mut ratios = Vec::new();
    for i in 0..5 {
        let run = format!("run-{i}");
        let (without, with) = (timed(&plain, &run).await, timed(&tls, &run).await);
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let bytes = plain.summary("run-0").await.unwrap().bytes_up / 20;
    println!("2 members, {bytes} bytes an update: mTLS takes {:.2} of the plaintext time (median of {ratios:.2?})", ratios[2]);
    assert!(bytes > 8_000_000, "{bytes}");
}
