//! The report: one HTML file with everything inline, no script.
//!
//! The page may be mailed, printed and read in ten years: it loads nothing and says so in its own policy. Names and
//! reasons in it come from outside, so all text passes through [`markup::escape`].

mod chart;
mod figures;
mod markup;
mod tables;
#[cfg(test)]
mod tests;
mod view;

use super::outcome::Outcome;
use markup::{details, escape, note, preformatted, section};
use view::View;

const STYLE: &str = include_str!("report/style.css");

/// The report as HTML.
pub(super) fn html(outcome: &Outcome) -> String {
    let view = View::of(outcome);
    let answers = [figures::all_answers(&view), tables::glossary(&view), tables::all_answers(&view)].concat();
    let body = [
        heading(&view),
        section("Accuracy by the modalities that are present", &tables::accuracy(&view)),
        section("Accuracy over the rounds", &figures::accuracy(&view)),
        section("Training loss", &figures::loss(&view)),
        section("All answers", &answers),
        section("How the data was cut", &preformatted(&outcome.partition)),
        section("Traffic", &tables::traffic(&view)),
        section("Faults", &tables::faults(&view)),
        section("Specs", &specs(&view)),
        section("Digests", &tables::digests(&view)),
        section("Make it again", &again(outcome)),
    ];
    page(&title(outcome), &body.concat())
}

fn title(outcome: &Outcome) -> String {
    if outcome.name.is_empty() { "Simulation".to_owned() } else { outcome.name.clone() }
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · Tessera report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn heading(view: &View<'_>) -> String {
    let outcome = view.outcome;
    let rounds = outcome.methods.iter().map(|m| m.spec.rounds).max().unwrap_or(0);
    let methods = match outcome.methods.len() {
        1 => "1 method".to_owned(),
        n => format!("{n} methods"),
    };
    format!(
        "<header>\n<h1>{}</h1>\n<p class=\"finding\">{}</p>\n<p class=\"about\">Simulation with Tessera {} · {methods} · {rounds} rounds · seed {}</p>\n</header>\n",
        escape(&title(outcome)),
        escape(&view.finding()),
        env!("CARGO_PKG_VERSION"),
        outcome.seed
    )
}

fn specs(view: &View<'_>) -> String {
    let spec =
        |(_, m): (usize, &super::outcome::Method)| details(&format!("Full spec of {}", m.name), &preformatted(&m.spec.to_toml()));
    view.methods().map(spec).collect()
}

fn again(outcome: &Outcome) -> String {
    note("The same version, spec and seed give the same digests on the same kind of device, whatever the number of processes.")
        + &preformatted(&outcome.command)
}
