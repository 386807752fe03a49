//! What a seed's cluster looks like: its spec, its agents and their members.

use tessera_common::id::{MemberName, Millis};
use tessera_common::rng::{Stream, stream};
use tessera_common::round::MemberInfo;
use tessera_common::spec::RunSpec;

/// The kinds of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every update of a cohort is waited for, longer than any outage lasts: the result must not depend on faults.
    Patient,
    /// A quorum is enough, and deadlines are shorter than outages: rounds hold what came in time.
    Hasty,
    /// As `Hasty`; members that are away are not waited for, late answers may count in the next round, and members that
    /// fail rest.
    Tolerant,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Patient, Kind::Hasty, Kind::Tolerant];

/// A cluster.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) kind: Kind,
    pub(crate) spec: RunSpec,
    /// An answer may count in the round after its own.
    pub(crate) late: bool,
    /// The engine follows the rules of the version before.
    pub(crate) old_rules: bool,
    /// The members of each agent.
    pub(crate) agents: Vec<Vec<(MemberName, MemberInfo)>>,
    /// Longest that a member trains, unless something slows it down.
    pub(crate) longest_training: Millis,
    /// When faults end.
    pub(crate) quiet_from: Millis,
    /// How long the run may take from then on.
    pub(crate) patience: Millis,
}

/// The table `cohort` of the spec, for so many trainers and members asked in a round, and a deadline of so many seconds.
fn cohort(draws: &mut Stream, kind: Kind, late: bool, [trainers, size, seconds]: [usize; 3]) -> String {
    if kind == Kind::Patient {
        return format!("members = {trainers}, size = {size}, deadline = \"720h\", retries = 3");
    }
    let quorum = 1 + draws.below(size - 1);
    let most = quorum + draws.below(size - quorum + 1);
    let members = trainers - draws.below(trainers - size + 1);
    let mut cohort = format!("members = {members}, size = {size}, quorum = {quorum}, most = {most}");
    cohort += &format!(", deadline = \"{seconds}s\", retries = {}", draws.below(4));
    if kind == Kind::Tolerant {
        let late = if late { "next-round" } else { "drop" };
        let (patience, strikes) = (draws.below(1_000 * seconds), draws.below(4));
        cohort += &format!(", late = \"{late}\", patience = \"{patience}ms\", strikes = {strikes}");
        if draws.below(2) == 0 {
            cohort += &format!(", absence = \"{}ms\"", 1 + draws.below(6_000));
        }
    }
    cohort
}

impl Setting {
    pub(crate) fn new(seed: u64, kind: Kind) -> Self {
        let mut draws = stream(seed, "setting", "", 0);
        let trainers = 3 + draws.below(4);
        let evaluators = draws.below(3);
        let agents = 2 + draws.below(3);
        let rounds = 2 + draws.below(3);
        let (standardise, every) = (draws.below(2) == 0, draws.below(3));
        let size = 2 + draws.below(trainers - 1);
        let seconds = 2 + draws.below(8);
        let late = kind == Kind::Tolerant && draws.below(2) == 0;
        let old_rules = kind != Kind::Tolerant && draws.below(4) == 0;
        let cohort = cohort(&mut draws, kind, late, [trainers, size, seconds]);
        let rules = if old_rules { "rules = 1\n" } else { "" };
        let text = format!(
            "version = 1\n{rules}name = \"virtual\"\nseed = {seed}\nrounds = {rounds}\ncohort = {{ {cohort} }}\n\
             evaluate = {{ every = {every}, members = {evaluators} }}\n\
             task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 1 }}, standardise = {standardise} }}"
        );
        let spec = RunSpec::from_toml(&text).unwrap();
        let mut hosts = vec![Vec::new(); agents];
        // members of the last numbers only evaluate; the first ones may do both
        let both = draws.below(2).min(evaluators);
        for i in 0..trainers + evaluators - both {
            let info = MemberInfo { trains: i < trainers, evaluates: i >= trainers || i < both, modalities: vec!["a".into()] };
            let host = if i < agents { i } else { draws.below(agents) };
            hosts[host].push((format!("m{i:02}").parse().unwrap(), info));
        }
        hosts.retain(|members| !members.is_empty());
        let deadline = 1_000 * seconds as Millis;
        let fullest = hosts.iter().map(Vec::len).max().unwrap_or(1) as Millis;
        Self {
            kind,
            spec,
            late,
            old_rules,
            agents: hosts,
            // an agent trains one member at a time, and all of them must be able to answer in time
            longest_training: (deadline / (2 * fullest)).min(400),
            quiet_from: 3_000 + draws.below(17_000) as Millis,
            patience: match kind {
                Kind::Patient => 180_000,
                Kind::Hasty | Kind::Tolerant => 900_000,
            },
        }
    }
}
