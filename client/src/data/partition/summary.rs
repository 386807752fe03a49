//! A partition in a few numbers.

use super::manifest::{Manifest, MemberRows};
use serde::Serialize;
use std::fmt;

/// A partition in a few numbers, for people. All counts are of rows that train, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Members that train.
    pub members: usize,
    /// Of them, those without a row left.
    pub empty: usize,
    /// Rows of a member.
    pub rows: Spread,
    /// Rows that lost all their modalities and are not used.
    pub discarded: usize,
    /// Rows that members set aside.
    pub held_out: usize,
    /// Rows of the evaluator.
    pub test: usize,
    /// Rows that the evaluator holds out.
    pub test_held_out: usize,
    /// Members with rows that have every modality in each of them.
    pub complete: usize,
    /// What is lacking, per modality.
    pub lacking: Vec<Lack>,
    /// Classes of a member that has rows, mean.
    pub classes: f64,
    /// Share of the largest class of a member that has rows, mean.
    pub largest_class: f64,
}

/// Smallest, middle and largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: usize,
    /// Middle; the mean of the two if there is an even number.
    pub median: f64,
    /// Largest.
    pub max: usize,
}

/// How much a modality is lacking.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lack {
    /// Its name.
    pub modality: String,
    /// Members with rows, none of which has it.
    pub members: usize,
    /// Share of rows without it.
    pub rows: f64,
}

impl Spread {
    /// Of any numbers; zeros if there are none.
    pub fn of(mut numbers: Vec<usize>) -> Self {
        numbers.sort_unstable();
        let (Some(&min), Some(&max)) = (numbers.first(), numbers.last()) else {
            return Self { min: 0, median: 0.0, max: 0 };
        };
        let half = numbers.len() / 2;
        let upper = numbers[half] as f64;
        let median = if numbers.len() % 2 == 1 { upper } else { (numbers[half - 1] as f64 + upper) / 2.0 };
        Self { min, median, max }
    }
}

impl Manifest {
    /// The partition in a few numbers.
    pub fn summary(&self) -> Summary {
        let with_rows: Vec<&MemberRows> = self.members.iter().filter(|member| !member.train.is_empty()).collect();
        let total: usize = with_rows.iter().map(|member| member.train.len()).sum();
        let mean = |value: &dyn Fn(&MemberRows) -> f64| {
            with_rows.iter().map(|member| value(member)).sum::<f64>() / with_rows.len().max(1) as f64
        };
        let lacking = self.modalities.iter().enumerate().map(|(bit, modality)| {
            let without = |member: &MemberRows| member.present.iter().filter(|&&mask| mask >> bit & 1 == 0).count();
            Lack {
                modality: modality.clone(),
                members: with_rows.iter().filter(|member| without(member) == member.train.len()).count(),
                rows: with_rows.iter().map(|member| without(member)).sum::<usize>() as f64 / total.max(1) as f64,
            }
        });
        let complete = super::super::samples::complete_mask(self.modalities.len());
        Summary {
            members: self.members.len(),
            empty: self.members.len() - with_rows.len(),
            rows: Spread::of(self.members.iter().map(|member| member.train.len()).collect()),
            discarded: self.members.iter().map(|member| member.discarded.len()).sum(),
            held_out: self.members.iter().map(|member| member.held_out.len()).sum(),
            test: self.test.len(),
            test_held_out: self.held_out.len(),
            complete: with_rows.iter().filter(|member| member.present.iter().all(|&mask| mask == complete)).count(),
            lacking: lacking.collect(),
            classes: mean(&|member| member.labels.len() as f64),
            largest_class: mean(&|member| {
                member.labels.values().copied().max().unwrap_or(0) as f64 / member.train.len().max(1) as f64
            }),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { min, median, max } = self.rows;
        writeln!(f, "{} members, {min} / {median} / {max} rows to train (smallest / median / largest)", self.members)?;
        let more = if self.test_held_out > 0 { format!(" and {} held out there", self.test_held_out) } else { String::new() };
        let Self { held_out, test, discarded, .. } = self;
        writeln!(f, "{held_out} rows set aside, {test} to test{more}, {discarded} discarded without a modality")?;
        if self.empty > 0 {
            writeln!(f, "{} members have no row left", self.empty)?;
        }
        writeln!(f, "{:.1} classes a member, {:.0}% of its rows in the largest", self.classes, 100.0 * self.largest_class)?;
        write!(f, "{} members are complete", self.complete)?;
        self.lacking.iter().try_for_each(|lack| {
            write!(f, "\n{}: {} members and {:.0}% of the rows lack it", lack.modality, lack.members, 100.0 * lack.rows)
        })
    }
}
