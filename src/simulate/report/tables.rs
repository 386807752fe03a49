//! The report's tables.

use super::super::outcome::{Evaluation, Method, Subsets, ordered};
use super::super::watch::size;
use super::markup::{ABSENT, Cell, Table, details, escape, list, note, paragraph};
use super::view::{ANSWERS, FEW, View, answers, order};
use std::collections::BTreeMap;

/// Most rows of the table of faults.
const MOST_FAULTS: usize = 200;
/// Most letters of a fault's reason.
const MOST_REASON: usize = 500;
/// Most bytes of folded tables of a kind: with ten modalities there are a thousand subsets, and the page must still open.
const MOST_BYTES: usize = 1_000_000;

/// A cell per value; the best of them marked, where there is anything to compare.
fn marked(values: &[Option<f64>]) -> Vec<Cell> {
    let there = values.iter().flatten().count();
    let best = values.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let cell = |value: &Option<f64>| match (Cell::percent(*value), value) {
        (Cell::Number(Some(text)), Some(value)) if there > 1 && *value == best => Cell::Best(text),
        (cell, _) => cell,
    };
    values.iter().map(cell).collect()
}

/// Tables folded away while there is room for them, else where their numbers are to be found.
fn folded(summary: &str, tables: &str, room: &mut usize) -> String {
    match room.checked_sub(tables.len()) {
        Some(rest) => {
            *room = rest;
            details(summary, tables)
        }
        None => note(&format!("{summary}: too many numbers for this page; metrics.jsonl beside it has them.")),
    }
}

fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(MOST_REASON) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason.to_owned(),
    }
}

fn evaluated(method: &Method) -> String {
    method.last().map_or("not evaluated".to_owned(), |e| format!("round {}", e.round))
}

/// Accuracy of every method's own answer by subset.
pub(super) fn accuracy(view: &View<'_>) -> String {
    let line = if view.subsets.len() <= FEW { "column" } else { "row" };
    let when = view.evaluated().map_or("at its last evaluation".to_owned(), |round| format!("after round {round}"));
    let mut html = paragraph(&format!(
        "Percent of the test samples that each method's own answer gets right {when}, by the modalities \
         that are present. The best of a {line} is bold and says so; – is what was not measured."
    ));
    html.push_str(&if view.subsets.len() <= FEW { few(view) } else { many(view) });
    let unfinished = view.methods().filter(|(_, m)| !m.finished);
    for (_, method) in unfinished {
        let round = method.rounds.last().map_or(0, |r| r.round);
        html.push_str(&paragraph(&format!("{} did not finish: {round} of {} rounds are done.", method.name, method.spec.rounds)));
    }
    html.push_str(&view.doubt().map(|text| note(&text)).unwrap_or_default());
    html
}

/// A row per method and a column per subset.
fn few(view: &View<'_>) -> String {
    let alike = view.evaluated().is_some();
    let words: &[&str] = if alike { &["method", "own answer"] } else { &["method", "own answer", "evaluated after"] };
    let head = words.iter().copied().chain(view.subsets.iter().map(String::as_str));
    let mut table = Table::new("Accuracy in percent by method and subset of modalities", head);
    let column = |s: &String| marked(&view.own.iter().map(|own| own.get(s).copied()).collect::<Vec<_>>());
    let columns: Vec<Vec<Cell>> = view.subsets.iter().map(column).collect();
    for (i, method) in view.methods() {
        let when = (!alike).then(|| Cell::text(evaluated(method)));
        let words = std::iter::once(Cell::text(method.answer())).chain(when);
        table.row(method.name.as_str(), words.chain(columns.iter().map(|c| c[i].clone())));
    }
    table.html()
}

/// A row per subset and a column per method: single modalities, means over equally large subsets, the complete set;
/// every subset is folded away under it.
fn many(view: &View<'_>) -> String {
    let mut by_order: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    view.subsets.iter().for_each(|s| by_order.entry(order(s)).or_default().push(s));
    let head = || std::iter::once("modalities".to_owned()).chain(view.methods().map(|(_, m)| m.name.clone()));
    let row = |subsets: &[&str]| marked(&view.methods().map(|(i, _)| view.mean(i, subsets)).collect::<Vec<_>>());
    let mut short = Table::new("Accuracy in percent by subset of modalities, in short, and method", head());
    short.row("own answer", view.methods().map(|(_, m)| Cell::Number(Some(m.answer().to_owned()))));
    if view.evaluated().is_none() {
        short.row("evaluated after", view.methods().map(|(_, m)| Cell::Number(Some(evaluated(m)))));
    }
    for (order, subsets) in &by_order {
        if *order == 1 || subsets.len() == 1 {
            subsets.iter().for_each(|s| short.row(*s, row(&[s])));
        }
        if subsets.len() > 1 {
            let of = if *order == 1 { "single modalities".to_owned() } else { format!("subsets of {order}") };
            short.row(format!("mean of {} {of}", subsets.len()), row(subsets));
        }
    }
    let mut all = Table::new("Accuracy in percent by subset of modalities and method", head());
    view.subsets.iter().for_each(|s| all.row(s.as_str(), row(&[s])));
    let mut room = MOST_BYTES / 2;
    short.html() + &folded(&format!("All {} subsets", view.subsets.len()), &all.html(), &mut room)
}

/// What the names of the answers mean.
pub(super) fn glossary(view: &View<'_>) -> String {
    let mut entries: String =
        ANSWERS.iter().map(|(name, meaning)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(meaning))).collect();
    if view.methods().any(|(_, m)| m.answer() == "auto") {
        entries.push_str(
            "<dt>auto</dt><dd>for each subset, the answer that was right most often on the members' held-out data</dd>\n",
        );
    }
    let star = note(
        "A star: the prototypes come from one statistics pass of all members with the final model. \
         No star: as members uploaded them during training.",
    );
    format!("<dl>\n{entries}</dl>\n{star}")
}

/// Every answer of a method on every subset, and on the members' held-out data where there is some.
pub(super) fn all_answers(view: &View<'_>) -> String {
    let mut room = MOST_BYTES;
    let tables = view.methods().map(|(i, method)| {
        let Some(evaluation) = method.last() else { return paragraph(&format!("{} was not evaluated.", method.name)) };
        let mut html = String::new();
        for (split, place) in [("test", "the test samples"), ("held-out", "the members' held-out samples")] {
            let about =
                format!("Accuracy in percent of the answers of {} on {place} after round {}", method.name, evaluation.round);
            let mut rows = answers(evaluation, split);
            if split == "test" && method.answer() == "auto" {
                rows.push(("auto".to_owned(), view.own[i].clone()));
            }
            if !rows.is_empty() {
                html.push_str(&paragraph(&format!("On {place}, in percent:")));
                html.push_str(&answers_table(about, method.answer(), &rows));
            }
        }
        html.push_str(&losses(method, evaluation));
        folded(&format!("All answers of {}", method.name), &html, &mut room)
    });
    tables.collect()
}

fn answers_table(about: String, own: &str, rows: &[(String, Subsets)]) -> String {
    let subsets = ordered(rows.iter().flat_map(|(_, s)| s.keys()));
    let name = |answer: &str| if answer == own { format!("{answer} (its own)") } else { answer.to_owned() };
    if subsets.len() <= FEW {
        let mut table = Table::new(about, std::iter::once("answer").chain(subsets.iter().map(|s| s.as_str())));
        for (answer, accuracies) in rows {
            table.row(name(answer), subsets.iter().map(|s| Cell::percent(accuracies.get(*s).copied())));
        }
        return table.html();
    }
    let mut table =
        Table::new(about, std::iter::once("modalities".to_owned()).chain(rows.iter().map(|(answer, _)| name(answer))));
    for subset in subsets {
        table.row(subset.as_str(), rows.iter().map(|(_, s)| Cell::percent(s.get(subset).copied())));
    }
    table.html()
}

/// Losses that evaluators reported.
fn losses(method: &Method, evaluation: &Evaluation) -> String {
    let loss = |split: &str| Some(format!("{:.4} on {split}", evaluation.metrics.value(&format!("{split}/loss"))?));
    let found: Vec<String> = ["test", "held-out"].into_iter().filter_map(loss).collect();
    if found.is_empty() {
        return String::new();
    }
    note(&format!("Cross-entropy of the head of {} with all modalities: {}.", method.name, list(&found)))
}

/// Bytes up and down.
pub(super) fn traffic(view: &View<'_>) -> String {
    let head = ["method", "rounds", "up", "down", "up per round", "down per round"];
    let mut table = Table::new("Bytes that the coordinator took in (up) and gave out (down) by method", head);
    for (_, method) in view.methods() {
        let rounds = method.rounds.len() as u64;
        let total = |bytes: u64| Cell::Number(Some(size(bytes)));
        let each = |bytes: u64| Cell::Number(bytes.checked_div(rounds).map(size));
        let (up, down) = (method.bytes_up, method.bytes_down);
        let cells = [Cell::Number(Some(rounds.to_string())), total(up), total(down), each(up), each(down)];
        table.row(method.name.as_str(), cells);
    }
    table.html() + &note("From the coordinator's side: up is what members sent, down is what they fetched.")
}

/// Assignments that did not end well, and processes that died.
pub(super) fn faults(view: &View<'_>) -> String {
    let restarts = match view.outcome.restarts {
        0 => "No process had to be started again.".to_owned(),
        1 => "One process died and was started again.".to_owned(),
        n => format!("Processes died and were started again {n} times."),
    };
    let mut counts: BTreeMap<(usize, &str, &str, &str), usize> = BTreeMap::new();
    for (i, method) in view.methods() {
        for (member, how, reason) in &method.faults {
            *counts.entry((i, member, how, reason)).or_default() += 1;
        }
    }
    let total: usize = counts.values().sum();
    if total == 0 {
        return paragraph(&format!("Every assignment ended well. {restarts}"));
    }
    let mut table = Table::new("Assignments that did not end well", ["method", "member", "how", "times", "reason"]);
    for ((i, member, how, reason), times) in counts.iter().take(MOST_FAULTS) {
        let words = [Cell::text(*member), Cell::text(*how), Cell::Number(Some(times.to_string())), Cell::text(shortened(reason))];
        table.row(view.outcome.methods[*i].name.as_str(), words);
    }
    let ended =
        if total == 1 { "One assignment did not end well.".to_owned() } else { format!("{total} assignments did not end well.") };
    let mut html = paragraph(&format!("{ended} {restarts}")) + &table.html();
    if counts.len() > MOST_FAULTS {
        html.push_str(&note(&format!("The first {MOST_FAULTS} of {} different ones are listed.", counts.len())));
    }
    html
}

/// Digests by which a result is known.
pub(super) fn digests(view: &View<'_>) -> String {
    let mut table = Table::new("Digests by method", ["method", "run", "what", "digest"]);
    for (_, method) in view.methods() {
        let code = |digest: Option<tessera_common::id::Digest>| digest.map_or(Cell::text(ABSENT), |d| Cell::Code(d.to_string()));
        let run = || Cell::Code(method.run.clone());
        table.row(method.name.as_str(), [run(), Cell::text("global model"), code(method.global)]);
        table.row(method.name.as_str(), [run(), Cell::text("statistics"), code(method.statistics)]);
    }
    table.html()
}
