//! An agent that would start from a settings file: nothing is started, made or changed.

use super::{Check, Verdict, disk, reach};
use crate::cli::{plural, size};
use std::fs;
use std::path::Path;
use tessera_client::config::{Agent, AgentConfig, ConfigError, Dial};
use tessera_client::device::Found;
use tessera_client::identity::{Identity, Origin, Own, now, when};

/// Free space below which an agent may fail to keep a finished answer.
const RESERVE: u64 = 64 << 20;

/// Life of a certificate file, in ms, below which somebody should replace it.
const SOON: u64 = 14 * 86_400_000;

/// Everything that can be said of the agent with these settings.
pub(super) async fn examine(path: &Path) -> Vec<Check> {
    let config = match AgentConfig::load(path) {
        Ok(config) => config,
        Err(error) => return vec![Check::fail("settings", error, "see docs/deployment.md for the keys")],
    };
    let coordinator = config.coordinator.as_deref().unwrap_or("of its identity");
    let mut checks = vec![Check::ok("settings", format!("agent {}, coordinator {coordinator}", config.name))];
    checks.extend(state_dir(config.state_dir.as_deref()));
    match config.inspect() {
        Ok(agent) => {
            checks.extend(tessera_client::device::find(&config.device).ok().map(device));
            checks.push(data(&agent));
            checks.push(certificate(&agent, now()));
            checks.extend(reach::examine(&agent.dial).await);
        }
        Err(error) => {
            checks.push(unusable(&error));
            checks.push(Check::warn("coordinator", "not tried", "mend what is above first"));
        }
    }
    checks
}

fn unusable(error: &ConfigError) -> Check {
    match error {
        ConfigError::Data(_) => Check::fail("data", error, "see docs/data.md; `tessera data inspect FOLDER` looks at one"),
        ConfigError::Tls(_) => Check::fail("certificate", error, "give the PEM files of [tls]; docs/deployment.md makes them"),
        ConfigError::Identity(_) => Check::fail("certificate", error, "see docs/deployment.md for tokens"),
        ConfigError::Device(_) => Check::fail("device", error, "see docs/deployment.md for devices and what they need"),
        ConfigError::Read(..) | ConfigError::Spec(..) | ConfigError::Invalid(_) => {
            Check::fail("settings", error, "see docs/deployment.md for the keys")
        }
    }
}

/// The device that the agent would train on.
fn device(found: Found) -> Check {
    if found.passed_over.is_empty() {
        return Check::ok("device", found.name);
    }
    let finding = format!("{}, because others did not work: {}", found.name, found.passed_over.join("; "));
    Check::warn("device", finding, "see docs/deployment.md for what they need, or set device to \"cpu\"")
}

fn data(agent: &Agent) -> Check {
    let members: Vec<String> = agent
        .members
        .values()
        .map(|m| format!("{} ({} to train, {} to evaluate)", m.name, m.train.len(), m.held_out.len() + m.test.len()))
        .collect();
    let finding = format!("{}: {}", plural(members.len() as u64, "member"), members.join(", "));
    let empty = agent.members.values().find(|m| m.train.is_empty() && m.held_out.is_empty() && m.test.is_empty());
    match empty {
        None => Check::ok("data", finding),
        Some(member) => Check::warn("data", finding, format!("{} has no samples: give it some, or leave it out", member.name)),
    }
}

/// The agent's own certificate, at a time of this machine's clock.
fn certificate(agent: &Agent, now: u64) -> Check {
    let own = match &agent.dial {
        Dial::Tcp { tls: Some(tls), .. } => tls.now().own.clone(),
        Dial::Tcp { tls: None, .. } | Dial::Pipe(_) => None,
    };
    match own {
        Some(own) => judged(&own, agent.identity.as_ref().map(Identity::renew_at), now),
        None => {
            let todo = "on a network, get a token with `tessera enrol NAME` and give it with `tessera client --token`";
            Check::warn("certificate", "none: the connection is plaintext", todo)
        }
    }
}

/// A certificate that is renewed at `renew`, or never by itself.
fn judged(own: &Own, renew: Option<u64>, now: u64) -> Check {
    let name = "certificate";
    let (facts, ends) = (&own.facts, when(own.facts.ends));
    let serves = if facts.names.is_empty() { String::new() } else { format!(" for {}", facts.names.join(", ")) };
    let (from, another) = match &own.origin {
        Origin::File(file) => (file, "put a new one in its place, and start the agent again".to_owned()),
        Origin::Identity(dir) => {
            let todo = format!("get a new token with `tessera enrol {}` and give it with `tessera client --token`", facts.name);
            (dir, todo)
        }
    };
    let finding = format!("{}{serves}, in {}", if facts.name.is_empty() { "no name" } else { &facts.name }, from.display());
    if facts.ends <= now {
        return Check::fail(name, format!("{finding}: ended {ends}"), another);
    }
    if facts.begins > now {
        let finding = format!("{finding}: begins {}, and this clock says {}", when(facts.begins), when(now));
        return Check::fail(name, finding, "set the clock of this machine");
    }
    match renew {
        Some(renew) if renew <= now => Check::warn(
            name,
            format!("{finding}: ends {ends}, a renewal is due"),
            "start the agent before then: it renews it at once",
        ),
        Some(renew) => Check::ok(name, format!("{finding}: ends {ends}, renewed after {}", when(renew))),
        None if facts.ends - now < SOON => Check::warn(name, format!("{finding}: ends {ends}"), another),
        None => Check::ok(name, format!("{finding}: ends {ends}")),
    }
}

fn state_dir(dir: Option<&Path>) -> Vec<Check> {
    let name = "state folder";
    let Some(dir) = dir else {
        let finding = "none: what members keep for themselves ends with the agent";
        return vec![Check::warn(name, finding, "set state_dir to a folder of its own")];
    };
    if !dir.exists() {
        let above = dir.ancestors().skip(1).find(|above| above.exists());
        let found = disk::writable(name, above.unwrap_or(Path::new(".")));
        return vec![match found.verdict {
            Verdict::Ok => Check::ok(name, format!("{} is not there yet; the first start makes it", dir.display())),
            Verdict::Warn | Verdict::Fail => found,
        }];
    }
    let private = disk::private(name, dir);
    if private.verdict == Verdict::Fail {
        return vec![private];
    }
    let mut checks = vec![private, disk::writable("state writes", dir), disk::space("state space", dir, RESERVE)];
    checks.extend(outbox(&dir.join("outbox")));
    checks
}

/// Finished answers that wait for the coordinator: a folder for each run, a record for each answer.
fn outbox(dir: &Path) -> Vec<Check> {
    let name = "outbox";
    let (mut waiting, mut bytes, mut damaged) = (Vec::new(), 0, 0);
    // a folder that is not there holds nothing
    for run in fs::read_dir(dir).into_iter().flatten().flatten() {
        let mut records = 0u64;
        for file in fs::read_dir(run.path()).into_iter().flatten().flatten() {
            let file_name = file.file_name().to_string_lossy().into_owned();
            records += u64::from(file_name.ends_with(".json"));
            damaged += u64::from(file_name.ends_with(".damaged"));
            bytes += disk::weigh(&file.path()).map_or(0, |(_, bytes)| bytes);
        }
        if records > 0 {
            waiting.push((run.file_name().to_string_lossy().into_owned(), records));
        }
    }
    waiting.sort();
    let runs: Vec<String> = waiting.iter().map(|(run, records)| format!("{records} of {run}")).collect();
    let total = waiting.iter().map(|(_, records)| records).sum();
    let mut checks = vec![Check::ok(
        name,
        match total {
            0 => "no finished answers wait".to_owned(),
            _ => format!("{} for the coordinator, {}: {}", plural(total, "finished answer"), size(bytes), runs.join(", ")),
        },
    )];
    if damaged > 0 {
        let finding = format!("{} in {}", plural(damaged, "damaged file"), dir.display());
        checks.push(Check::warn(name, finding, "look at the disk; that work is done again, and the files go with their run"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(checks: &[Check], verdict: Verdict) -> Vec<&str> {
        checks.iter().filter(|c| c.verdict == verdict).map(|c| c.name.as_str()).collect()
    }

    async fn of(text: &str) -> (tempfile::TempDir, Vec<Check>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        let checks = examine(&path).await;
        (dir, checks)
    }

    #[tokio::test]
    async fn settings_that_cannot_be_read_end_it() {
        let (_dir, checks) = of("name = \"a\"\ncoordinator = \"127.0.0.1:1\"\nthread = 1\n").await;
        assert_eq!(checks.len(), 1);
        assert!(checks[0].verdict == Verdict::Fail && checks[0].finding.contains("threads"), "{checks:?}");
    }

    #[tokio::test]
    async fn data_that_is_not_there_is_named_and_nothing_is_made() {
        let text =
            "name = \"a\"\ncoordinator = \"127.0.0.1:1\"\nstate_dir = \"state\"\n[[member]]\nname = \"m\"\ndata = \"none\"\n";
        let (dir, checks) = of(text).await;
        assert_eq!(names(&checks, Verdict::Fail), ["data"], "{checks:?}");
        assert_eq!(names(&checks, Verdict::Warn), ["coordinator"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the settings");
    }

    #[tokio::test]
    async fn a_device_that_is_none_is_named() {
        let (_dir, checks) = of("name = \"a\"\ncoordinator = \"127.0.0.1:1\"\ndevice = \"abacus\"\n").await;
        assert_eq!(names(&checks, Verdict::Fail), ["device"], "{checks:?}");
        let passed_over = vec!["vulkan: no vulkan device was found".into()];
        let check = device(Found { passed_over, ..tessera_client::device::find("cpu").unwrap() });
        assert!(
            check.verdict == Verdict::Warn && check.finding.starts_with("cpu, ") && check.finding.ends_with("found"),
            "{check:?}"
        );
    }

    #[test]
    fn certificates_are_judged_by_their_dates() {
        use tessera_client::identity::Facts;
        let facts = Facts { name: "north".into(), names: vec!["ward-*".into()], begins: 1_000, ends: SOON + 5_000 };
        let own = Own { facts, origin: Origin::File("a.pem".into()) };
        let of = |renew, now| judged(&own, renew, now);
        assert_eq!(of(None, 2_000).finding, "north for ward-*, in a.pem: ends 1970-01-15T00:00:05Z");
        assert_eq!(of(None, 6_000).todo, "put a new one in its place, and start the agent again");
        assert!(of(None, SOON + 5_000).finding.ends_with(": ended 1970-01-15T00:00:05Z"));
        assert!(of(None, 0).finding.ends_with(": begins 1970-01-01T00:00:01Z, and this clock says 1970-01-01T00:00:00Z"));
        assert_eq!((of(Some(9_000), 6_000).verdict, of(Some(9_000), 9_000).verdict), (Verdict::Ok, Verdict::Warn));
        let enrolled = Own { origin: Origin::Identity("d".into()), ..own.clone() };
        let ended = judged(&enrolled, Some(0), SOON + 5_000);
        assert!(ended.verdict == Verdict::Fail && ended.todo.contains("`tessera enrol north`"), "{ended:?}");
    }

    #[test]
    fn finished_answers_are_counted_by_run() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(outbox(&dir.path().join("none"))[0].finding, "no finished answers wait");
        for (path, bytes) in [("a/5.json", 10), ("a/5-x.safetensors", 100), ("a/7.started", 1), ("b/6.json", 10)] {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), vec![0; bytes]).unwrap();
        }
        let checks = outbox(dir.path());
        assert_eq!(
            (checks.len(), checks[0].finding.as_str()),
            (1, "2 finished answers for the coordinator, 121 B: 1 of a, 1 of b")
        );
        fs::write(dir.path().join("b/8.json.damaged"), b"").unwrap();
        let checks = outbox(dir.path());
        assert_eq!((checks.len(), checks[1].verdict), (2, Verdict::Warn), "{checks:?}");
    }

    #[tokio::test]
    async fn a_coordinator_that_is_not_there_is_named() {
        // a port that was free a moment ago
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (dir, checks) =
            of(&format!("name = \"a\"\ncoordinator = \"127.0.0.1:{port}\"\n[[member]]\nname = \"m\"\ndata = \"d\"\n")).await;
        assert_eq!(names(&checks, Verdict::Fail), ["data"]);
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/x.csv"), "id,x0,label\n0,1.0,0\n1,2.0,1\n").unwrap();
        let set = "version = 1\nname = \"d\"\nclasses = 2\nid = \"id\"\n[modalities.x]\nfile = \"x.csv\"\nprefix = \"x\"\n\
                   [label]\nfile = \"x.csv\"\nkey = \"label\"\n";
        fs::write(dir.path().join("d/dataset.toml"), set).unwrap();
        let checks = examine(&dir.path().join("agent.toml")).await;
        assert_eq!(names(&checks, Verdict::Fail), ["coordinator"], "{checks:?}");
        assert!(names(&checks, Verdict::Warn).contains(&"certificate"), "{checks:?}");
        assert!(checks.iter().any(|c| c.name == "device"), "{checks:?}");
        let found = checks.iter().find(|c| c.name == "data").unwrap();
        assert_eq!(found.finding, "1 member: m (2 to train, 0 to evaluate)");
    }
}
