//! The `[data]` table of a simulated run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tessera_common::spec::{MAX_MODALITIES, SpecError, parse_table};

/// Draws after which a minimum is reached by moving rows instead of by drawing again.
pub const MAX_DRAWS: u32 = 100;

/// Which data, and how it is cut: the `[data]` table of a simulated run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Name of a data set that comes with Tessera, or the path of one.
    pub source: String,
    /// Number of members that train.
    pub clients: usize,
    /// Which rows are for testing only; none if not given.
    #[serde(default)]
    pub split: Split,
    /// Which row is whose.
    #[serde(default)]
    pub partition: Scheme,
    /// Which modalities are taken away from rows that train.
    #[serde(default)]
    pub missing: Pattern,
    /// Share of each member's rows that it sets aside for its own evaluation, rounded, in [0, 1); one row stays to train.
    #[serde(default)]
    pub held_out: f64,
    /// The modalities to use; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modalities: Option<Vec<String>>,
}

/// Which rows are for testing only: `{ test_per_class = 40 }`, `{ fold = 0 }`, `{ client = "ward-b" }` or
/// `{ client = "ward-b", fold = 0 }`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// So many rows of each class, drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_per_class: Option<usize>,
    /// The rows of this fold of the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<u32>,
    /// The rows of this value of the data set's client column. With `fold`, nobody trains on rows of either: the
    /// evaluator tests on the client's rows outside the fold, holds out those in it, and each member holds out its own
    /// rows of the fold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// With `client` and `fold`: false lets the evaluator alone hold out rows, so that runs of different members are
    /// measured on the same ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<bool>,
}

/// Which row is whose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scheme {
    /// Rows are shuffled and cut evenly.
    Iid {},
    /// Label skew: the rows of each class are cut by a draw of Dirichlet(alpha) over the members, at rounded cumulative
    /// shares (Hsu et al., "Measuring the effects of non-identical data distribution", 2019, cut per class). Drawn
    /// again until each member has `min` rows; after [`MAX_DRAWS`] draws rows move, each drawn, from the largest member
    /// to those below.
    Dirichlet {
        /// Concentration; small is skewed.
        alpha: f64,
        /// Fewest rows of a member.
        #[serde(default = "one")]
        min: usize,
    },
    /// By the data set's client column, one member per id in order (as numbers if all are); with fewer members than
    /// ids, id i goes to member i mod `clients`.
    Column {},
    /// Quantity skew with the same labels everywhere: sizes by Dirichlet(`alpha`), or by rank^-`power` in an order
    /// that is drawn. The minimum is reached as for `dirichlet`.
    Quantity {
        /// Concentration of the sizes; small is skewed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alpha: Option<f64>,
        /// Exponent of the power law; 0 is even.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        power: Option<f64>,
        /// Fewest rows of a member.
        #[serde(default = "one")]
        min: usize,
    },
}

fn one() -> usize {
    1
}

impl Default for Scheme {
    fn default() -> Self {
        Self::Iid {}
    }
}

/// Which modalities are taken away from rows that train. A row that has none left is discarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pattern {
    /// None.
    None {},
    /// Each modality of each row is lost independently.
    Sample {
        /// Probability of losing a modality that `rates` does not name.
        #[serde(default)]
        rate: f64,
        /// Probability per modality.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rates: BTreeMap<String, f64>,
    },
    /// Each member loses each modality, in all its rows, independently. Drawn again until a member that has rows loses
    /// none; after [`MAX_DRAWS`] draws one of them, drawn, is made complete. A member that loses all keeps no row.
    Client {
        /// Probability of losing a modality that `rates` does not name.
        #[serde(default)]
        rate: f64,
        /// Probability per modality.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rates: BTreeMap<String, f64>,
    },
    /// A share of the members, drawn, is complete; each of the others has one modality, in turn. With `complete = 0`
    /// nobody is complete.
    Unimodal {
        /// Share of the members that is complete, rounded.
        #[serde(default)]
        complete: f64,
    },
    /// Each modality of each row is lost with a probability that depends on the row's class: drawn uniformly from
    /// [`low`, `high`] per class and modality, or given per class.
    Label {
        /// Lowest probability.
        #[serde(default)]
        low: f64,
        /// Highest probability.
        #[serde(default)]
        high: f64,
        /// Per modality the probability of each class; a modality that is not named is drawn from `low` and `high`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        rates: BTreeMap<String, Vec<f64>>,
    },
    /// Each of these members lacks these modalities in all its rows. A key is the name of a member, such as
    /// `client-00`; in a partition by the client column also a value of that column, which means the rows of it.
    Members {
        /// Modalities that are taken away, by member or value.
        lacks: BTreeMap<String, Vec<String>>,
    },
}

impl Default for Pattern {
    fn default() -> Self {
        Self::None {}
    }
}

impl DataSpec {
    /// Parses and validates a `[data]` table.
    ///
    /// # Errors
    /// Names the key, and for an unknown key the nearest valid one.
    pub fn from_table(table: &toml::Table) -> Result<Self, SpecError> {
        let spec: Self = parse_table("data", table)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Checks what can be checked without the data set; [`super::Manifest::make`] does the rest.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn validate(&self) -> Result<(), SpecError> {
        check("data.source", !self.source.is_empty(), "name a data set, or give its path")?;
        check("data.clients", (1..=1_000_000).contains(&self.clients), "must be 1 to 1000000")?;
        check("data.held_out", (0.0..1.0).contains(&self.held_out), "must be in [0, 1)")?;
        let split = &self.split;
        check("data.split", split.test_per_class.is_none() || split.fold.is_none(), "give test_per_class or fold, not both")?;
        let drawn = split.test_per_class.is_some() && split.client.is_some();
        check("data.split", !drawn, "give test_per_class or client, not both")?;
        let both = split.client.is_some() && split.fold.is_some();
        check("data.split.members", both || split.members.is_none(), "says something only beside client and fold")?;
        let by_column = matches!(self.partition, Scheme::Column {});
        let why = "client and fold hold out each member's rows of the fold, so members need rows of their own: set \
                   partition = { kind = \"column\" }";
        check("data.split", !both || by_column, why)?;
        let why = "with client and fold the members hold out their rows of the fold; leave it out";
        check("data.held_out", !both || self.held_out == 0.0, why)?;
        check("data.split.test_per_class", split.test_per_class != Some(0), "must be 1 or more; without a split leave it out")?;
        if let Some(names) = &self.modalities {
            check(
                "data.modalities",
                (1..=MAX_MODALITIES).contains(&names.len()),
                "name 1 to 10 modalities, or leave it out for all",
            )?;
        }
        self.partition.validate()?;
        self.missing.validate()
    }
}

fn check(key: &str, ok: bool, why: &str) -> Result<(), SpecError> {
    if ok { Ok(()) } else { Err(SpecError::invalid(key, why)) }
}

impl Scheme {
    /// Fewest rows of a member.
    pub(super) fn min(&self) -> usize {
        match self {
            Self::Iid {} | Self::Column {} => 1,
            Self::Dirichlet { min, .. } | Self::Quantity { min, .. } => *min,
        }
    }

    fn validate(&self) -> Result<(), SpecError> {
        // below, most draws of a Gamma variate are 0 in 64 bits
        let alpha_ok = |alpha: f64| (0.001..=1e6).contains(&alpha);
        match self {
            Self::Iid {} | Self::Column {} => Ok(()),
            Self::Dirichlet { alpha, .. } => check("data.partition.alpha", alpha_ok(*alpha), "must be 0.001 to 1000000"),
            Self::Quantity { alpha, power, .. } => {
                check("data.partition", alpha.is_some() != power.is_some(), "quantity wants alpha or power, and not both")?;
                check("data.partition.alpha", alpha.is_none_or(alpha_ok), "must be 0.001 to 1000000")?;
                check("data.partition.power", power.is_none_or(|p| (0.0..=20.0).contains(&p)), "must be 0 to 20")
            }
        }
    }
}

impl Pattern {
    fn validate(&self) -> Result<(), SpecError> {
        let share =
            |key: &str, value: f64| check(&format!("data.missing.{key}"), (0.0..=1.0).contains(&value), "must be in [0, 1]");
        match self {
            Self::None {} => Ok(()),
            Self::Sample { rate, rates } => {
                share("rate", *rate)?;
                rates.iter().try_for_each(|(name, &rate)| share(&format!("rates.{name}"), rate))
            }
            Self::Client { rate, rates } => {
                let below = |key: &str, value: f64| {
                    let why = "must be in [0, 1): with 1 no member could be complete";
                    check(&format!("data.missing.{key}"), (0.0..1.0).contains(&value), why)
                };
                below("rate", *rate)?;
                rates.iter().try_for_each(|(name, &rate)| below(&format!("rates.{name}"), rate))
            }
            Self::Unimodal { complete } => share("complete", *complete),
            Self::Members { lacks } => check(
                "data.missing.lacks",
                !lacks.is_empty(),
                "name members and what they lack: lacks = { client-00 = [\"text\"] }",
            ),
            Self::Label { low, high, rates } => {
                share("low", *low)?;
                share("high", *high)?;
                check("data.missing.low", low <= high, "must not be above `high`")?;
                let mut each = rates.iter().flat_map(|(name, rates)| rates.iter().map(move |&rate| (name, rate)));
                each.try_for_each(|(name, rate)| share(&format!("rates.{name}"), rate))
            }
        }
    }
}
