use super::*;
use crate::journal::Journal;
use std::sync::Mutex;
use tempfile::TempDir;
use tessera_common::round::MemberInfo;
use tessera_common::spec::RunSpec;
use tokio::sync::oneshot;

const SPEC: &str = r#"
    version = 1
    name = "t"
    rounds = 1
    task = { kind = "classify", classes = 2, modalities = { left = 2 }, standardise = false }
    cohort = { members = 2, size = 2 }
"#;

fn open(dir: Option<&Path>) -> Runtime {
    let blobs = Blobs::in_memory(1 << 20);
    let config = Config { data_dir: dir.map(Path::to_owned), ..Config::in_memory() };
    let identities = Identities::open(&config).unwrap();
    Runtime::open(&config, blobs, Arc::default(), identities, Audit::open(None).unwrap(), inbox().1, None).unwrap()
}

async fn submit(runtime: &mut Runtime, id: &str) -> RunId {
    let (reply, answer) = oneshot::channel();
    let spec = Box::new(RunSpec::from_toml(SPEC).unwrap());
    runtime.take(Request::Submit { spec, id: Some(id.parse().unwrap()), reply }).await;
    runtime.settle().await;
    answer.await.unwrap().unwrap()
}

async fn happened(runtime: &mut Runtime, run: &RunId, event: Event) -> Result<(), Refusal> {
    let (reply, answer) = oneshot::channel();
    runtime.take(Request::Happened { run: run.clone(), event, reply }).await;
    runtime.settle().await;
    answer.await.unwrap()
}

type Inbound = mpsc::Receiver<Result<ToAgent, Status>>;

async fn connect(runtime: &mut Runtime, members: &[&str], room: usize) -> (Inbound, oneshot::Receiver<Status>) {
    let info = MemberInfo { trains: true, evaluates: false, modalities: vec!["left".into()] };
    let members = members.iter().map(|m| (m.parse().unwrap(), info.clone())).collect();
    let hello = Hello { agent: "x".parse().unwrap(), members, peer: None, labels: BTreeMap::new() };
    let ((outbox, queue), (close, closed), (reply, answer)) = (mpsc::channel(room), oneshot::channel(), oneshot::channel());
    runtime.take(Request::Connect { hello, line: Line { outbox, close }, reply }).await;
    runtime.settle().await;
    answer.await.unwrap();
    (queue, closed)
}

/// The disk refuses a write: nothing that depends on it happens, the run stands still, others go on, and once the disk
/// works the run is found as it was before.
#[tokio::test]
async fn a_run_whose_journal_cannot_be_written_stands_still() {
    let dir = TempDir::new().unwrap();
    let mut runtime = open(Some(dir.path()));
    let (bad, good) = (submit(&mut runtime, "bad").await, submit(&mut runtime, "good").await);
    let mut watch = runtime.runs[&bad].history.watch(0);
    let path = dir.path().join("runs/bad/journal");
    let run = runtime.runs.get_mut(&bad).unwrap();
    run.journal = Arc::new(Mutex::new(Journal::unwritable(&path, &run.spec_toml)));

    let (mut queue, _closed) = connect(&mut runtime, &["a", "b"], 8).await;
    let told: Vec<ToAgent> = std::iter::from_fn(|| queue.try_recv().ok()).map(Result::unwrap).collect();
    assert!(!told.is_empty(), "the good run asks");
    for message in &told {
        let (ToAgent::RunOpened { run, .. } | ToAgent::Assign { run, .. }) = message else { panic!("{message:?}") };
        assert_eq!(*run, good, "nothing is asked that is not in the journal");
    }
    let refusal = happened(&mut runtime, &bad, Event::StopAsked).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Waiting { .. }), "{refusal}");
    assert!(refusal.to_string().contains("its journal cannot be written"), "{refusal}");
    assert_eq!(watch.next().await, None, "watchers are not left waiting");
    let phases: Vec<_> = runtime.summaries().into_iter().map(|s| (s.run.to_string(), s.phase)).collect();
    assert!(phases.contains(&("bad".into(), "paused".into())) && phases.contains(&("good".into(), "initialising".into())));

    let nobody = |runtime: &Runtime| runtime.runs[&bad].engine().state().members.is_empty();
    {
        let mut runtime = open(Some(dir.path()));
        assert!(nobody(&runtime), "nobody had joined durably");
        runtime.settle().await;
    }
    runtime.look_at_disk().await;
    runtime.settle().await;
    assert!(runtime.trouble.is_none() && runtime.stalled.is_empty());
    assert!(!nobody(&runtime), "those that are connected have joined anew");
    assert_eq!(runtime.runs[&bad].engine().state().phase.name(), "initialising");
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_let_go() {
    let mut runtime = open(None);
    let run = submit(&mut runtime, "r").await;
    let (_queue, closed) = connect(&mut runtime, &["a", "b"], 1).await;
    // there is room for the run's spec, and none for the assignment
    assert_eq!(closed.await.unwrap().message(), "this agent does not read what it is told");
    assert!(!runtime.runs[&run].counts_on(&"a".parse().unwrap()));
    assert_eq!(runtime.sessions.online().count(), 0);
}

#[tokio::test]
async fn a_fold_that_fails_pauses_the_run_and_says_why() {
    use tessera_common::id::Digest;
    use tessera_common::update::UpdateRef;
    let mut runtime = open(None);
    let run = submit(&mut runtime, "r").await;
    let (mut queue, _closed) = connect(&mut runtime, &["a", "b"], 8).await;
    let assignment = loop {
        if let Ok(ToAgent::Assign { assignment, .. }) = queue.recv().await.unwrap() {
            break assignment;
        }
    };
    // an answer whose blob is gone by the time of the fold
    let update = UpdateRef {
        member: assignment.member,
        assignment: assignment.id,
        blob: Some(Digest::of(b"gone")),
        bytes: 1,
        examples: 1,
        weights: BTreeMap::new(),
        metrics: tessera_common::metric::Metrics::default(),
    };
    happened(&mut runtime, &run, Event::Answered(update)).await.unwrap();
    let done = runtime.folds.join_next().await.unwrap();
    runtime.folded(done);
    runtime.settle().await;
    let summary = runtime.summaries().remove(0);
    assert_eq!(summary.phase, "paused");
    assert!(summary.reason.contains(&Digest::of(b"gone").short()), "{}", summary.reason);
}
