//! The report's charts, each with its finding and numbers.

use super::super::outcome::Subsets;
use super::chart::{self, Frame, Group, Series};
use super::markup::{Cell, Figure, Table, escape, list, note, paragraph};
use super::view::{ANSWERS, FEW, NAMED, View, answers};
use std::collections::BTreeMap;

/// Most rounds of a chart and its table: a run of a million rounds must not make a page that no browser opens.
const MOST_POINTS: usize = 400;
/// Width and height of a chart of which several stand side by side, and of one that stands alone, in pixels.
const SMALL: (f64, f64) = (310.0, 230.0);
const LARGE: (f64, f64) = (940.0, 270.0);
/// Most groups, and longest label, of bars that fit a small chart.
const SMALL_GROUPS: usize = 3;
const SMALL_LABEL: usize = 12;
/// Colour of each of [`ANSWERS`], and of answers that this report does not know.
const ANSWER_COLOURS: [&str; ANSWERS.len()] = ["var(--a0)", "var(--a1)", "var(--a2)", "var(--a3)", "var(--a4)", "var(--a5)"];
const OTHER_COLOURS: [&str; 2] = ["var(--s3)", "var(--s6)"];

/// A method's values by round.
type Course = Vec<(u32, f64)>;

/// Evenly spaced elements, the last among them, at most [`MOST_POINTS`].
fn thinned(course: &Course) -> Course {
    let stride = course.len().div_ceil(MOST_POINTS).max(1);
    let mut kept: Course = course.iter().rev().step_by(stride).copied().collect();
    kept.reverse();
    kept
}

fn key(entries: impl Iterator<Item = (String, String)>) -> String {
    let entries: String = entries.map(|(sample, name)| format!("<li>{sample} {}</li>", escape(&name))).collect();
    format!("<ul class=\"key\">{entries}</ul>\n")
}

fn method_key(view: &View<'_>, marks: bool) -> String {
    key(view.methods().map(|(i, m)| (chart::line_sample(i, marks), m.name.clone())))
}

/// A table with a row per round and a column per method.
fn by_round(view: &View<'_>, about: String, courses: &[Course], decimals: usize) -> Table {
    let mut rows: BTreeMap<u32, Vec<Option<String>>> = BTreeMap::new();
    for (i, course) in courses.iter().enumerate() {
        for (round, value) in course {
            rows.entry(*round).or_insert_with(|| vec![None; courses.len()])[i] = Some(format!("{value:.decimals$}"));
        }
    }
    let mut table = Table::new(about, std::iter::once("round").chain(view.methods().map(|(_, m)| m.name.as_str())));
    for (round, row) in rows {
        table.row(round.to_string(), row.into_iter().map(Cell::Number));
    }
    table
}

fn series(courses: &[Course]) -> Vec<Series> {
    let finite = |course: &Course| course.iter().filter(|(_, v)| v.is_finite()).map(|(r, v)| (f64::from(*r), *v)).collect();
    courses.iter().enumerate().map(|(number, course)| Series { number, points: finite(course) }).collect()
}

/// Accuracy over rounds: one chart per subset, all with the same axis.
pub(super) fn accuracy(view: &View<'_>) -> String {
    let shown = view.shown();
    if shown.is_empty() {
        return paragraph("No accuracy was measured on the test split.");
    }
    // Once for all charts: an answer that is chosen per subset takes a pass over all metrics.
    let evaluated: Vec<Vec<(u32, Subsets)>> =
        view.methods().map(|(_, m)| m.evaluations.iter().map(|e| (e.round, m.subsets(e))).collect()).collect();
    let course = |evaluations: &Vec<(u32, Subsets)>, subset: &str| -> Course {
        thinned(&evaluations.iter().filter_map(|(round, s)| Some((*round, 100.0 * s.get(subset)?))).collect())
    };
    let courses: Vec<Vec<Course>> = shown.iter().map(|s| evaluated.iter().map(|e| course(e, s)).collect()).collect();
    let y = chart::around(courses.iter().flatten().flatten().map(|(_, percent)| *percent));
    let (width, height) = SMALL;
    let frame = Frame { width, height, x_label: "round", y_label: "accuracy in %", y };
    let figures = shown.iter().zip(&courses).enumerate().map(|(n, (subset, courses))| {
        let figure = Figure {
            id: format!("accuracy-{n}"),
            subject: (*subset).to_owned(),
            finding: view.subset_finding(subset),
            svg: chart::lines(&frame, &series(courses), true),
            numbers: by_round(view, format!("Accuracy in percent on {subset} by round and method"), courses, 1),
        };
        figure.html()
    });
    let mut html = format!("{}<div class=\"grid\">\n{}</div>\n", method_key(view, true), figures.collect::<String>());
    html.push_str(&note("Each method's own answer on the test samples. Marks are evaluations; all charts have the same axis."));
    if shown.len() < view.subsets.len() {
        let text = format!("Of {} subsets, those of one modality and the complete set are drawn.", view.subsets.len());
        html.push_str(&note(&text));
    }
    html
}

/// Training loss over rounds, one line per method.
pub(super) fn loss(view: &View<'_>) -> String {
    let all: Vec<Course> =
        view.methods().map(|(_, m)| m.rounds.iter().filter_map(|r| Some((r.round, r.loss?))).collect()).collect();
    if all.iter().all(Vec::is_empty) {
        return paragraph("No training loss was reported.");
    }
    let courses: Vec<Course> = all.iter().map(thinned).collect();
    let found = |(name, course): (&str, &Course)| {
        let ((_, first), (_, last)) = (course.first()?, course.last()?);
        Some(format!("{name} {first:.3} to {last:.3}"))
    };
    let mut found: Vec<String> = view.methods().map(|(_, m)| m.name.as_str()).zip(&all).filter_map(found).collect();
    if found.len() > NAMED {
        let more = format!("{} more below", found.len() - NAMED);
        found.truncate(NAMED);
        found.push(more);
    }
    let (width, height) = LARGE;
    let values = courses.iter().flatten().map(|(_, v)| *v).filter(|v| v.is_finite());
    let frame = Frame { width, height, x_label: "round", y_label: "training loss", y: chart::around(values.chain([0.0])) };
    let figure = Figure {
        id: "loss".to_owned(),
        subject: "Training loss".to_owned(),
        finding: format!("from the first to the last round, {}.", list(&found)),
        svg: chart::lines(&frame, &series(&courses), false),
        numbers: by_round(view, "Training loss by round and method".to_owned(), &courses, 4),
    };
    let mut html = format!("{}{}", method_key(view, false), figure.html());
    html.push_str(&note(
        "Mean over the samples that members trained on in a round, of the loss that the method itself minimises. \
         Methods with other terms in it, such as the prototype contrast, do not compare by height.",
    ));
    if courses.iter().zip(&all).any(|(kept, all)| kept.len() < all.len()) {
        let text =
            format!("At most {MOST_POINTS} evenly spaced rounds are drawn and listed; metrics.jsonl beside this page has all.");
        html.push_str(&note(&text));
    }
    html
}

fn answer_colour(name: &str, number: usize) -> &'static str {
    let known = ANSWERS.iter().position(|(known, _)| *known == name);
    known.map_or(OTHER_COLOURS[number % OTHER_COLOURS.len()], |i| ANSWER_COLOURS[i])
}

/// All answers per subset as grouped bars, one chart per method. Nothing where there are too many subsets.
pub(super) fn all_answers(view: &View<'_>) -> String {
    let tested: Vec<(usize, Vec<(String, Subsets)>)> = view
        .methods()
        .filter_map(|(i, m)| Some((i, answers(m.last()?, m.last()?.split()))))
        .filter(|(_, a)| !a.is_empty())
        .collect();
    if tested.is_empty() || view.subsets.len() > FEW {
        return String::new();
    }
    let mut names: Vec<&str> = ANSWERS.iter().map(|(name, _)| *name).collect();
    for (name, _) in tested.iter().flat_map(|(_, answers)| answers) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.retain(|name| tested.iter().any(|(_, answers)| answers.iter().any(|(n, _)| n == name)));
    let colours: Vec<&str> = names.iter().enumerate().map(|(i, name)| answer_colour(name, i)).collect();
    let small = view.subsets.len() <= SMALL_GROUPS && view.subsets.iter().all(|s| s.chars().count() <= SMALL_LABEL);
    let (width, height) = if small { SMALL } else { LARGE };
    let frame = Frame { width, height, x_label: "", y_label: "accuracy in %", y: (0.0, 100.0) };
    let figures = tested.iter().map(|(i, answers)| {
        let bar = |name: &&str, subset: &str| Some(100.0 * answers.iter().find(|(n, _)| n == name)?.1.get(subset)?);
        let group = |subset| Group { label: subset, bars: names.iter().map(|name| bar(name, subset)).collect() };
        let groups: Vec<Group<'_>> = view.subsets.iter().map(|s| group(s.as_str())).collect();
        let name = &view.outcome.methods[*i].name;
        let mut numbers = Table::new(
            format!("Accuracy in percent of all answers of {name} by subset"),
            std::iter::once("answer").chain(view.subsets.iter().map(String::as_str)),
        );
        for (j, answer) in names.iter().enumerate() {
            numbers.row(*answer, groups.iter().map(|g| Cell::Number(g.bars[j].map(|percent| format!("{percent:.1}")))));
        }
        let finding = view.answers_finding(*i, answers);
        let svg = chart::bars(&frame, &groups, &colours);
        Figure { id: format!("answers-{i}"), subject: name.clone(), finding, svg, numbers }.html()
    });
    let key = key(names.iter().zip(&colours).map(|(name, colour)| (chart::bar_sample(colour), (*name).to_owned())));
    let class = if small { "grid" } else { "stack" };
    let figures: String = figures.collect();
    let order =
        note("The bars of a group stand in the order of the key, from left to right; a dash is an answer that was not measured.");
    format!("{key}<div class=\"{class}\">\n{figures}</div>\n{order}")
}
