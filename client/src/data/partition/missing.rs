//! Which modalities are taken away from rows that train.

use super::super::samples::complete_mask;
use super::spec::{MAX_DRAWS, Pattern};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::rng::{self, Stream};
use tessera_common::spec::SpecError;

/// What a pattern is applied to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Federation<'a> {
    /// Names of the modalities, by bit.
    pub(super) modalities: &'a [String],
    /// Number of classes.
    pub(super) classes: usize,
    /// Class of each row of the data set.
    pub(super) labels: &'a [u32],
    /// Names of the members.
    pub(super) names: &'a [String],
    /// Rows that each member trains on.
    pub(super) rows: &'a [Vec<usize>],
    /// The client column, if the rows were cut by it.
    pub(super) column: Option<&'a [String]>,
}

/// For each member and row a mask of the modalities that are kept, whatever the row has by nature.
///
/// # Errors
/// If `pattern` names a modality that is not used, or does not give one probability per class.
pub(super) fn kept(pattern: &Pattern, federation: &Federation<'_>, seed: u64) -> Result<Vec<Vec<u32>>, SpecError> {
    let modalities = federation.modalities;
    let complete = complete_mask(modalities.len());
    let per_member = |masks: Vec<u32>| masks.iter().zip(federation.rows).map(|(&mask, rows)| vec![mask; rows.len()]).collect();
    Ok(match pattern {
        Pattern::None {} => per_member(vec![complete; federation.rows.len()]),
        Pattern::Sample { rate, rates } => {
            let rates = per_modality(*rate, rates, modalities)?;
            by_row(federation, seed, |_| rates.clone())
        }
        Pattern::Client { rate, rates } => {
            let rates = per_modality(*rate, rates, modalities)?;
            per_member(by_client(federation, &rates, seed))
        }
        Pattern::Unimodal { complete } => per_member(unimodal(federation, *complete, seed)),
        Pattern::Label { low, high, rates } => {
            let table = class_rates(federation, (*low, *high), rates, seed)?;
            by_row(federation, seed, |label| table[label as usize].clone())
        }
        Pattern::Members { lacks } => by_name(federation, lacks)?,
    })
}

/// The rate of each modality, `[modalities]`.
fn per_modality(rate: f64, rates: &BTreeMap<String, f64>, modalities: &[String]) -> Result<Vec<f64>, SpecError> {
    known(rates.keys(), modalities)?;
    Ok(modalities.iter().map(|name| rates.get(name).copied().unwrap_or(rate)).collect())
}

fn known<'a>(mut names: impl Iterator<Item = &'a String>, modalities: &[String]) -> Result<(), SpecError> {
    match names.find(|name| !modalities.contains(name)) {
        Some(name) => {
            let valid: Vec<&str> = modalities.iter().map(String::as_str).collect();
            Err(SpecError::unknown_name("data.missing.rates", name, &valid))
        }
        None => Ok(()),
    }
}

/// The masks where `lacks` says by name, of a member or of the client column, what is lacking.
fn by_name(federation: &Federation<'_>, lacks: &BTreeMap<String, Vec<String>>) -> Result<Vec<Vec<u32>>, SpecError> {
    let values: BTreeSet<&str> = match federation.column {
        Some(column) => federation.rows.iter().flatten().map(|&row| column[row].as_str()).collect(),
        None => BTreeSet::new(),
    };
    let complete = complete_mask(federation.modalities.len());
    let mut masks = BTreeMap::new();
    for (key, names) in lacks {
        if !values.contains(key.as_str()) && !federation.names.contains(key) {
            let members = federation.names.iter().map(String::as_str);
            let valid: Vec<&str> = values.iter().copied().chain(members).collect();
            return Err(SpecError::unknown_name("data.missing.lacks", key, &valid));
        }
        let mut mask = complete;
        for name in names {
            let Some(bit) = federation.modalities.iter().position(|modality| modality == name) else {
                let valid: Vec<&str> = federation.modalities.iter().map(String::as_str).collect();
                return Err(SpecError::unknown_name(&format!("data.missing.lacks.{key}"), name, &valid));
            };
            mask &= !(1 << bit);
        }
        masks.insert(key.as_str(), mask);
    }
    let keeps = |key: &str| masks.get(key).copied().unwrap_or(complete);
    let row_keeps = |row: usize| federation.column.map_or(complete, |column| keeps(&column[row]));
    let member = |(name, rows): (&String, &Vec<usize>)| rows.iter().map(|&row| keeps(name) & row_keeps(row)).collect();
    Ok(federation.names.iter().zip(federation.rows).map(member).collect())
}

/// A mask in which modality m is lost with probability `rates[m]`.
fn draw(rates: &[f64], stream: &mut Stream) -> u32 {
    rates.iter().enumerate().fold(0, |mask, (bit, &rate)| if stream.uniform() < rate { mask } else { mask | 1 << bit })
}

/// One mask per row, with rates that may depend on its label; a stream per member, so that none depends on the others.
fn by_row(federation: &Federation<'_>, seed: u64, rates: impl Fn(u32) -> Vec<f64>) -> Vec<Vec<u32>> {
    let member = |(name, rows): (&String, &Vec<usize>)| {
        let mut stream = rng::stream(seed, "missing", name, 0);
        rows.iter().map(|&row| draw(&rates(federation.labels[row]), &mut stream)).collect()
    };
    federation.names.iter().zip(federation.rows).map(member).collect()
}

/// One mask per member; at least one member with rows is complete, if any has rows.
fn by_client(federation: &Federation<'_>, rates: &[f64], seed: u64) -> Vec<u32> {
    let complete = complete_mask(rates.len());
    let mut stream = rng::stream(seed, "missing", "", 0);
    let holders: Vec<usize> = (0..federation.rows.len()).filter(|&member| !federation.rows[member].is_empty()).collect();
    let mut masks = Vec::new();
    for _ in 0..MAX_DRAWS {
        masks = federation.rows.iter().map(|_| draw(rates, &mut stream)).collect::<Vec<_>>();
        if holders.iter().any(|&member| masks[member] == complete) {
            return masks;
        }
    }
    if let Some(&member) = holders.get(stream.below(holders.len())) {
        masks[member] = complete;
    }
    masks
}

/// A share of the members is complete, the others have one modality in turn.
fn unimodal(federation: &Federation<'_>, share: f64, seed: u64) -> Vec<u32> {
    let (clients, modalities) = (federation.rows.len(), federation.modalities.len());
    let complete = (share * clients as f64).round() as usize;
    let mut order: Vec<usize> = (0..clients).collect();
    rng::stream(seed, "missing", "", 0).shuffle(&mut order);
    let mut masks = vec![complete_mask(modalities); clients];
    for (turn, &member) in order.iter().skip(complete).enumerate() {
        masks[member] = 1 << (turn % modalities);
    }
    masks
}

/// The rate of each modality by class, `[classes][modalities]`.
fn class_rates(
    federation: &Federation<'_>,
    (low, high): (f64, f64),
    rates: &BTreeMap<String, Vec<f64>>,
    seed: u64,
) -> Result<Vec<Vec<f64>>, SpecError> {
    known(rates.keys(), federation.modalities)?;
    if let Some((name, given)) = rates.iter().find(|(_, given)| given.len() != federation.classes) {
        let why = format!("gives {} probabilities; there are {} classes", given.len(), federation.classes);
        return Err(SpecError::invalid(format!("data.missing.rates.{name}"), why));
    }
    let mut stream = rng::stream(seed, "missing", "", 0);
    let class = |class: usize| {
        let modality = |name: &String| {
            // drawn even where a rate is given, so that giving one does not change the others
            let drawn = low + (high - low) * stream.uniform();
            rates.get(name).map_or(drawn, |given| given[class])
        };
        federation.modalities.iter().map(modality).collect()
    };
    Ok((0..federation.classes).map(class).collect())
}
