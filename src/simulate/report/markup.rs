//! Pieces of HTML. Text is escaped here and nowhere else.

use std::fmt::Write;

/// Stands where there is no value.
pub(super) const ABSENT: &str = "–";

/// Text as HTML, good for content and for attributes in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(c),
        }
    }
    html
}

/// A share as percent with one decimal, without the sign: `71.3`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// A share as percent within a sentence; number and sign stay on one line.
pub(super) fn in_percent(share: f64) -> String {
    format!("{}\u{a0}%", percent(share))
}

/// Names as a list for people: `a, b and c`.
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    let mut text = String::new();
    for (i, name) in names.iter().enumerate() {
        text.push_str(match i {
            0 => "",
            _ if i + 1 == names.len() => " and ",
            _ => ", ",
        });
        text.push_str(name.as_ref());
    }
    text
}

/// Most letters of a row's heading that stay on one line.
const LONG: usize = 32;

/// A cell of a table. Everything in it is plain text.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    /// Words.
    Text(String),
    /// A number, or a dash.
    Number(Option<String>),
    /// The best number of its column.
    Best(String),
    /// A digest or the like.
    Code(String),
}

impl Cell {
    /// Words.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A share in percent.
    pub(super) fn percent(share: Option<f64>) -> Self {
        Self::Number(share.map(percent))
    }

    fn html(&self) -> String {
        match self {
            Self::Text(text) => format!("<td>{}</td>", breakable(text)),
            Self::Number(number) => format!("<td class=\"n\">{}</td>", escape(number.as_deref().unwrap_or(ABSENT))),
            Self::Best(number) => {
                format!("<td class=\"n\"><strong>{}</strong> <span class=\"best\">best</span></td>", escape(number))
            }
            Self::Code(code) => format!("<td class=\"code\">{}</td>", escape(code)),
        }
    }
}

/// Text that may break after each `+`.
fn breakable(text: &str) -> String {
    escape(text).replace('+', "+<wbr>")
}

/// Rows under a heading; the first cell of a row is its heading.
#[derive(Debug)]
pub(super) struct Table {
    /// What the table holds; read aloud before it, not shown.
    about: String,
    head: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table with the headings of its columns.
    pub(super) fn new<S: Into<String>>(about: impl Into<String>, head: impl IntoIterator<Item = S>) -> Self {
        Self { about: about.into(), head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, heading: impl Into<String>, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(std::iter::once(Cell::text(heading)).chain(cells).collect());
    }

    /// The table as HTML, in a box of its own that scrolls where the page is too narrow.
    pub(super) fn html(&self) -> String {
        // A heading stands over its column as the column's cells do.
        let numeric =
            |i: usize| self.rows.first().and_then(|r| r.get(i)).is_some_and(|c| matches!(c, Cell::Number(_) | Cell::Best(_)));
        let about = escape(&self.about);
        let mut html = format!(
            "<div class=\"wide\" role=\"group\" tabindex=\"0\" aria-label=\"{about}\"><table><caption>{about}</caption><thead><tr>"
        );
        for (i, name) in self.head.iter().enumerate() {
            let class = if numeric(i) { " class=\"n\"" } else { "" };
            let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", breakable(name));
        }
        html.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            html.push_str("\n<tr>");
            for (i, cell) in row.iter().enumerate() {
                match cell {
                    Cell::Text(text) if i == 0 => {
                        let class = if text.chars().count() > LONG { " class=\"long\"" } else { "" };
                        let _ = write!(html, "<th scope=\"row\"{class}>{}</th>", breakable(text));
                    }
                    cell => html.push_str(&cell.html()),
                }
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>\n");
        html
    }
}

/// A paragraph of plain text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A remark in small print.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// Preformatted plain text.
pub(super) fn preformatted(text: &str) -> String {
    format!("<pre tabindex=\"0\"><code>{}</code></pre>\n", escape(text.trim_end()))
}

/// A section of the page under a heading.
pub(super) fn section(heading: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(heading))
}

/// Something folded away under a line of plain text. `body` is HTML.
pub(super) fn details(summary: &str, body: &str) -> String {
    format!("<details><summary>{}</summary>\n{body}</details>\n", escape(summary))
}

/// A chart with the finding as its caption and the numbers behind it.
#[derive(Debug)]
pub(super) struct Figure {
    /// Unlike that of every other figure of the page.
    pub(super) id: String,
    /// What it shows, in bold before the finding.
    pub(super) subject: String,
    /// What is to be seen, in words.
    pub(super) finding: String,
    /// The chart, as SVG.
    pub(super) svg: String,
    /// The numbers of the chart.
    pub(super) numbers: Table,
}

impl Figure {
    /// The figure as HTML.
    ///
    /// The chart alone is the image: a figure with a caption may not be one, and what is inside of an image could not
    /// be opened. A caption must come last in its figure, so the table stands behind it.
    pub(super) fn html(&self) -> String {
        let Self { id, svg, .. } = self;
        let (subject, finding) = (breakable(&self.subject), escape(&self.finding));
        let caption = format!("<figcaption id=\"{id}\"><strong>{subject}</strong>: {finding}</figcaption>");
        let numbers = details(&format!("Numbers: {}", self.subject), &self.numbers.html());
        format!(
            "<div class=\"plot\"><figure><div role=\"img\" aria-labelledby=\"{id}\">{svg}</div>\n{caption}</figure>\n{numbers}</div>\n"
        )
    }
}
