//! What the site refuses, what the coordinator refuses, and what the audit log says of both.

use super::*;
use tessera_common::audit::Head;

impl Theatre {
    /// An agent with this policy, and the conversation with it before anything is said.
    async fn with(&mut self, policy: &str) -> (Running, Conversation) {
        drop(self.free().await);
        let policy = toml::from_str(policy).unwrap();
        let agent = Agent { policy, ..agent(self.coordinator.dial(), Some(self.state.path()), 1.0) };
        let running = Running(tokio::spawn(run(agent, std::future::pending())));
        (running, self.coordinator.conversation().await)
    }

    /// The audit log, which is whole: what, member, digest and verdict.
    fn audit(&self) -> Vec<(String, Option<String>, Option<Digest>, String)> {
        let text = std::fs::read_to_string(self.state.path().join("audit.log")).unwrap();
        let mut head = Head::default();
        let mut one = |line| {
            let (entry, next) = head.follow(line).unwrap();
            head = next;
            (entry.what, entry.member, entry.digest, entry.verdict)
        };
        text.lines().map(&mut one).collect()
    }
}

// Should: refuse every kind of work, each time. Should not: fetch or read anything for it.
#[tokio::test]
async fn a_run_that_the_policy_refuses_gets_its_reason_and_no_data() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.with("min_cohort = 2").await;
        talk.welcome().await;
        let reason = "site policy: min_cohort is 2, and the run makes a round of 1 updates (cohort.quorum)";
        let global = Some(Digest::of(b"nowhere"));
        for (id, work) in
            [Work::SurveyInputs, Work::Initialise, Work::Fit, Work::SurveyFeatures, Work::Evaluate].iter().enumerate()
        {
            give(&mut talk, 1, &Assignment { work: *work, global, ..survey(id as u64 + 1) }).await;
            assert_eq!(talk.failure().await.reason, reason);
        }
        assert!(stage.coordinator.offsets().is_empty() && stage.files().is_empty());
        let audit = stage.audit();
        let what: Vec<&str> = audit.iter().map(|entry| entry.0.as_str()).collect();
        let refused = ["survey-inputs", "initialise", "fit", "survey-features", "evaluate"].map(|work| format!("refuse {work}"));
        assert_eq!(what[..3], ["start", "join", "open"]);
        assert_eq!(what[3..], refused);
        assert_eq!(audit[2].3, format!("site policy: north: {}", reason.trim_start_matches("site policy: ")));
        assert!(audit[3..].iter().all(|entry| entry.1.as_deref() == Some("north") && entry.3 == reason));
        first.kill().await;
    })
    .await;
}

// Should: throw away what an earlier policy allowed. Should not: send it, asked or unasked.
#[tokio::test]
async fn a_stricter_policy_holds_for_answers_that_are_ready() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.with("").await;
        talk.welcome().await;
        give(&mut talk, 1, &survey(5)).await;
        talk.answer().await;
        first.kill().await;
        let (second, mut talk) = stage.with("min_cohort = 2").await;
        talk.welcome().await;
        for _ in 0..CAUGHT_UP {
            talk.say(Down::Heartbeat(v1::Heartbeat {})).await;
        }
        talk.idle().await;
        give(&mut talk, 1, &survey(5)).await;
        assert!(talk.failure().await.reason.starts_with("site policy: min_cohort"));
        assert!(stage.files().is_empty(), "{:?}", stage.files());
        second.kill().await;
    })
    .await;
}

#[tokio::test]
async fn the_number_of_runs_is_bounded_over_restarts() {
    within(async {
        let mut stage = Theatre::new();
        for _ in 0..2 {
            let (agent, mut talk) = stage.with("max_runs = 1").await;
            talk.welcome().await;
            give(&mut talk, 1, &survey(5)).await;
            talk.answer().await;
            give(&mut talk, 2, &survey(6)).await;
            let reason = talk.failure().await.reason;
            assert_eq!(reason, "site policy: max_runs is 1, and this site took part in 1 other runs");
            agent.kill().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_and_its_verdict_are_in_the_audit_log() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.with("").await;
        talk.welcome().await;
        give(&mut talk, 1, &survey(5)).await;
        let answer = talk.answer().await;
        talk.say(accepted(&answer)).await;
        talk.idle().await;
        let audit = stage.audit();
        let blob = Some(tessera_proto::convert::digest(&answer.blob).unwrap());
        let north = Some("north".to_owned());
        assert_eq!(audit[3], ("send survey-inputs".into(), north.clone(), blob, "ok".into()));
        assert_eq!(audit[4], ("verdict survey-inputs".into(), north, blob, "ok".into()));
        assert_eq!(audit.len(), 5);
        first.kill().await;
    })
    .await;
}

// Should: keep the coordinator's words, once. Should not: end the process, or work with it.
#[tokio::test]
async fn a_coordinator_that_refuses_is_no_end() {
    within(async {
        let text = "member north is revoked (stolen); the coordinator's operator can undo it: tessera members unrevoke north";
        for version in [None, Some("9.0.0")] {
            let mut stage = Theatre::new();
            let (first, mut talk) = stage.with("").await;
            match version {
                None => talk.refuse(tonic::Status::permission_denied(text)).await,
                Some(version) => {
                    let (version, heartbeat_ms) = (version.into(), 50);
                    talk.say(Down::Welcome(v1::Welcome { version, heartbeat_ms, time_ms: 0 })).await;
                }
            }
            while stage.audit().len() < 2 {
                tokio::task::yield_now().await;
            }
            let audit = stage.audit();
            assert_eq!((audit.len(), audit[1].0.as_str()), (2, "refused"));
            match version {
                None => assert_eq!(audit[1].3, text),
                Some(version) => {
                    let both = [version, tessera_proto::VERSION, "update the agent"];
                    assert!(both.iter().all(|part| audit[1].3.contains(part)), "{audit:?}");
                }
            }
            assert!(!first.0.is_finished());
            first.kill().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_blob_that_is_refused_ends_its_assignment_alone() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.with("").await;
        talk.welcome().await;
        stage.coordinator.refuse_downloads("this run is not for member north");
        let global = Some(Digest::of(b"nowhere"));
        give(&mut talk, 1, &Assignment { work: Work::Fit, global, round: 1, ..survey(5) }).await;
        assert_eq!(talk.failure().await.reason, "this run is not for member north");
        give(&mut talk, 1, &survey(6)).await;
        talk.answer().await;
        first.kill().await;
    })
    .await;
}
