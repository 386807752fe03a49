//! Submits the runs and follows them to their end, over restarts of the coordinator too.

use super::children::Children;
use super::outcome::{Evaluation, Method, RoundRecord, ordered};
use super::plan::Plan;
use crate::cli;
use crate::run;
use anyhow::{Result, anyhow};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::Duration;
use tessera_common::id::Digest;
use tessera_common::spec::RunSpec;
use tessera_proto::convert;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::watch_run_response::Event;
use tessera_proto::v1::{SubmitRunRequest, WatchRunRequest};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Pause before the admin socket is tried again: the coordinator may be starting.
const AGAIN: Duration = Duration::from_millis(100);

/// Runs every method to its end.
pub(super) async fn run(plan: &Plan, children: &mut Children, json: bool) -> Result<Vec<Method>> {
    let bars = MultiProgress::new();
    if json {
        bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let width = plan.methods.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut watches = JoinSet::new();
    for (i, (name, spec)) in plan.methods.iter().enumerate() {
        let bar = bars.add(ProgressBar::new(u64::from(spec.rounds)));
        let style = ProgressStyle::with_template("{prefix} round {pos:>3}/{len} [{bar:24}] {elapsed:>4} {msg}")?;
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{name:width$}"));
        bar.enable_steady_tick(Duration::from_millis(250));
        let watch = Watch { admin: children.admin(), name: name.clone(), spec: spec.clone(), bar, json };
        watches.spawn(async move { (i, watch.follow().await) });
    }
    let mut methods: Vec<Option<Method>> = plan.methods.iter().map(|_| None).collect();
    loop {
        tokio::select! {
            done = watches.join_next() => {
                let Some(done) = done else { break };
                let (i, method) = done?;
                methods[i] = Some(method?);
            }
            reason = children.broken() => return Err(anyhow!(reason)),
        }
    }
    Ok(methods.into_iter().flatten().collect())
}

struct Watch {
    admin: String,
    name: String,
    spec: RunSpec,
    bar: ProgressBar,
    json: bool,
}

impl Watch {
    async fn follow(self) -> Result<Method> {
        let mut method = Method {
            name: self.name.clone(),
            run: String::new(),
            spec: self.spec.clone(),
            rounds: Vec::new(),
            evaluations: Vec::new(),
            faults: Vec::new(),
            global: None,
            statistics: None,
            bytes_up: 0,
            bytes_down: 0,
            finished: false,
            reason: None,
        };
        let mut after = 0;
        let mut over = false;
        while !over {
            // A coordinator that was killed comes back with all it had acknowledged: go on from there.
            let outcome = async {
                let mut admin = run::connect(&self.admin).await?;
                if method.run.is_empty() {
                    method.run = self.submit(&mut admin).await?;
                }
                self.stream(&mut admin, &mut method, &mut after, &mut over).await
            };
            match outcome.await {
                Ok(()) => {}
                Err(error) if refused(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "the coordinator does not answer"),
            }
            if !over {
                tokio::time::sleep(AGAIN).await;
            }
        }
        self.bar.finish();
        Ok(method)
    }

    async fn submit(&self, admin: &mut AdminClient<Channel>) -> Result<String> {
        let request = SubmitRunRequest { spec_toml: self.spec.to_toml(), run: self.name.clone() };
        Ok(admin.submit_run(request).await.map_err(run::status)?.into_inner().run)
    }

    async fn stream(
        &self,
        admin: &mut AdminClient<Channel>,
        method: &mut Method,
        after: &mut u64,
        over: &mut bool,
    ) -> Result<()> {
        let request = WatchRunRequest { run: method.run.clone(), after: *after };
        let mut stream = admin.watch_run(request).await.map_err(run::status)?.into_inner();
        while let Some(message) = stream.message().await.map_err(run::status)? {
            *after = message.position;
            if let Some(event) = message.event {
                self.take(event, method, over)?;
            }
            if *over {
                break;
            }
        }
        Ok(())
    }

    fn take(&self, event: Event, method: &mut Method, over: &mut bool) -> Result<()> {
        match event {
            Event::Published(p) => {
                let loss = convert::metrics(p.metrics)?.value("fit/loss");
                method.global = Digest::try_from(&p.global[..]).ok();
                (method.bytes_up, method.bytes_down) = (p.bytes_up, p.bytes_down);
                if p.round > 0 {
                    method.rounds.push(RoundRecord { round: p.round, members: p.members.len(), loss });
                }
                self.bar.set_position(u64::from(p.round));
                self.say(json!({
                    "type": "round", "method": method.name, "run": method.run, "round": p.round, "members": p.members.len(),
                    "loss": loss, "bytes": { "up": p.bytes_up, "down": p.bytes_down },
                }));
            }
            Event::Evaluated(e) => {
                method.statistics = Digest::try_from(&e.statistics[..]).ok();
                let evaluation = Evaluation { round: e.round, metrics: convert::metrics(e.metrics)? };
                let subsets = method.subsets(&evaluation);
                self.say(json!({
                    "type": "evaluation", "method": method.name, "run": method.run, "round": e.round, "subsets": subsets,
                }));
                method.evaluations.push(evaluation);
            }
            Event::Ended(e) => {
                self.say(json!({
                    "type": "fault", "method": method.name, "run": method.run, "member": e.member, "how": e.how, "reason": e.reason,
                }));
                self.bar.suspend(|| {
                    tracing::warn!(member = e.member, how = e.how, reason = e.reason, "an assignment did not end well")
                });
                method.faults.push((e.member, e.how, e.reason));
            }
            Event::Paused(p) => {
                *over = true;
                method.reason = Some(p.reason);
            }
            Event::Resumed(_) => *over = false,
            Event::Resting(r) => {
                let (member, failures, until) = (&r.member, r.failures, r.until_round);
                self.bar.suspend(|| tracing::warn!(member, failures, until, "a member failed repeatedly and rests"));
            }
            Event::Finished(f) => {
                *over = true;
                method.finished = f.outcome == "completed";
            }
        }
        self.bar.set_message(message(method));
        Ok(())
    }

    fn say(&self, line: serde_json::Value) {
        if self.json {
            cli::print(line);
        }
    }
}

/// Loss, accuracies of the latest evaluation, traffic.
fn message(method: &Method) -> String {
    let mut words = Vec::new();
    if let Some(loss) = method.rounds.last().and_then(|r| r.loss) {
        words.push(format!("loss {loss:.3}"));
    }
    if let Some(evaluation) = method.last() {
        let subsets = method.subsets(evaluation);
        // beyond two modalities the line would be too long: singles and the complete set say enough
        let shown = ordered(subsets.keys());
        let few = shown.iter().filter(|s| shown.len() <= 3 || !s.contains('+') || Some(*s) == shown.last());
        words.extend(few.map(|s| format!("{s} {:.3}", subsets[*s])));
    }
    words.push(format!("{} up, {} down", size(method.bytes_up), size(method.bytes_down)));
    words.join("  ")
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// The coordinator understood and said no: trying again would not help.
fn refused(error: &anyhow::Error) -> bool {
    error.downcast_ref::<cli::Failure>().is_some_and(|f| matches!(f.kind, cli::Kind::Invalid | cli::Kind::NotFound))
}
