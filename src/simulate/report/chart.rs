//! Charts as SVG. The only file that knows the plotting crate.
//!
//! Colours are CSS variables of the page, so that a chart follows its light or dark scheme.

use kuva::backend::svg::SvgBackend;
use kuva::plot::scatter::MarkerShape;
use kuva::plot::{BarPlot, LinePlot, ScatterPlot};
use kuva::render::annotations::TextAnnotation;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, render_multiple};
use kuva::render::theme::Theme;
use std::fmt::Write;

/// Colours of series, `--s0` and so on in the page.
const COLOURS: usize = 7;
const DASHES: [&str; 4] = ["", "7 3", "10 3 2 3", "3 2"];
const MARKS: [MarkerShape; 5] =
    [MarkerShape::Circle, MarkerShape::Square, MarkerShape::Triangle, MarkerShape::Diamond, MarkerShape::TriangleDown];
/// Radius of a mark and width of a line in pixels.
const MARK: f64 = 4.0;
const STROKE: f64 = 2.0;
/// Share of a group's place that its bars take.
const FILLED: f64 = 0.86;
/// Width of a letter of a tick label in pixels, about.
const LETTER: f64 = 6.6;

/// Size and axes of a chart.
#[derive(Debug, Clone)]
pub(super) struct Frame<'a> {
    /// Pixels.
    pub(super) width: f64,
    /// Pixels.
    pub(super) height: f64,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    /// Lower and upper end of the vertical axis.
    pub(super) y: (f64, f64),
}

/// A line with its points. Colour, dashes and marks follow from the number of the series.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) number: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// Bars side by side under a label; None leaves a dash in the bar's place.
#[derive(Debug, Clone)]
pub(super) struct Group<'a> {
    pub(super) label: &'a str,
    pub(super) bars: Vec<Option<f64>>,
}

/// The step 1, 2 or 5 times a power of ten that divides `span` into at most `most` parts.
fn step(span: f64, most: f64) -> f64 {
    let rough = span / most;
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let unit = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|s| s * unit).find(|s| *s >= rough * (1.0 - 1e-9)).unwrap_or(10.0 * unit)
}

/// The ends of an axis: round numbers around all of `values`, which may be none.
pub(super) fn around(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let step = step(high - low, 5.0);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    if low < high { (low, high) } else { (low, low + step) }
}

fn colour(number: usize) -> String {
    format!("var(--s{})", number % COLOURS)
}

fn dash(number: usize) -> &'static str {
    // After one turn of the colours the next dashes, so that no two of the first 28 look alike.
    DASHES[(number % COLOURS + number / COLOURS) % DASHES.len()]
}

fn mark(number: usize) -> MarkerShape {
    MARKS[number % MARKS.len()]
}

/// Lines over whole numbers from 0 on; with `marks` every point is marked.
pub(super) fn lines(frame: &Frame<'_>, series: &[Series], marks: bool) -> String {
    let end = series.iter().flat_map(|s| &s.points).fold(1.0, |end: f64, (x, _)| end.max(*x));
    let mut plots = Vec::new();
    for s in series {
        let line = LinePlot::new().with_data(s.points.iter().copied()).with_color(colour(s.number)).with_stroke_width(STROKE);
        plots.push(Plot::Line(match dash(s.number) {
            "" => line,
            dash => line.with_line_style(kuva::plot::LineStyle::Custom(dash.to_owned())),
        }));
        if marks || s.points.len() == 1 {
            let dots = ScatterPlot::new().with_data(s.points.iter().copied()).with_color(colour(s.number));
            plots.push(Plot::Scatter(dots.with_size(MARK).with_marker(mark(s.number))));
        }
    }
    let layout = Layout::new((0.0, end), frame.y).with_x_axis_min(0.0).with_x_axis_max(end);
    draw(frame, plots, layout.with_x_tick_step(step(end, 5.0).max(1.0)))
}

/// Groups of bars from 0 on; `colours` are those of a group's bars in order.
pub(super) fn bars(frame: &Frame<'_>, groups: &[Group<'_>], colours: &[&str]) -> String {
    let mut plot = BarPlot::new().with_width(FILLED);
    let mut dashes = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let width = FILLED / group.bars.len().max(1) as f64;
        let bar = |(j, value): (usize, &Option<f64>)| match value {
            Some(value) => (*value, colours[j % colours.len()]),
            None => {
                let x = i as f64 + 1.0 - FILLED / 2.0 + width * (j as f64 + 0.5);
                dashes.push(TextAnnotation::new("–", x, frame.y.0).with_color("var(--soft)").with_font_size(11));
                (0.0, "none")
            }
        };
        let bars: Vec<(f64, &str)> = group.bars.iter().enumerate().map(bar).collect();
        // A dollar sign would start a formula.
        plot = plot.with_group(group.label.replace('$', "\\$"), bars);
    }
    let place = frame.width * 0.9 / groups.len().max(1) as f64;
    let crowded = groups.iter().any(|g| g.label.chars().count() as f64 * LETTER > place);
    let plots = vec![Plot::Bar(plot)];
    let mut layout = Layout::auto_from_plots(&plots);
    layout.annotations = dashes;
    // Labels that lie flat need one line and no label of the axis under them.
    draw(frame, plots, if crowded { layout.with_x_tick_rotate(-25.0) } else { layout.with_force_margins_y(10.0, 26.0) })
}

fn theme() -> Theme {
    let (fg, soft, rule) = ("var(--fg)".to_owned(), "var(--soft)".to_owned(), "var(--rule)".to_owned());
    Theme {
        background: "none".into(),
        axis_color: soft.clone(),
        grid_color: rule,
        tick_color: soft,
        text_color: fg,
        ..Theme::light()
    }
}

fn draw(frame: &Frame<'_>, plots: Vec<Plot>, layout: Layout) -> String {
    let layout = layout
        .with_width(frame.width)
        .with_height(frame.height)
        .with_x_label(frame.x_label)
        .with_y_label(frame.y_label)
        .with_y_axis_min(frame.y.0)
        .with_y_axis_max(frame.y.1)
        .with_y_tick_step(step(frame.y.1 - frame.y.0, 5.0))
        .with_tick_size(11)
        .with_label_size(12)
        .with_theme(theme());
    let mut scene = render_multiple(plots, layout);
    // The axes hold all of the data, so nothing need be clipped but marks that lie on an axis; and the names of clips
    // are counted over the whole process, which would make equal reports differ.
    scene.elements.retain(|e| !matches!(e, Primitive::ClipStart { .. } | Primitive::ClipEnd));
    scene.defs.clear();
    scene.background_color = None;
    let svg = SvgBackend::new().render_scene(&scene);
    let inside = svg.split_once("-->").or_else(|| svg.split_once('>')).map_or("", |(_, inside)| inside);
    // A root of our own: it scales with the page and takes the page's font.
    let (width, height) = (scene.width, scene.height);
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" class=\"chart\" fill=\"var(--fg)\" aria-hidden=\"true\" focusable=\"false\">{inside}"
    )
}

/// What the series of this number looks like, for a key.
pub(super) fn line_sample(number: usize, marks: bool) -> String {
    let (colour, dash) = (colour(number), dash(number));
    let mut svg = String::from("<svg viewBox=\"0 0 34 12\" width=\"34\" height=\"12\" aria-hidden=\"true\" focusable=\"false\">");
    let _ = write!(svg, "<path d=\"M0 6H34\" stroke=\"{colour}\" stroke-width=\"{STROKE}\" stroke-dasharray=\"{dash}\"/>");
    if marks {
        let _ = write!(svg, "<path d=\"{}\" fill=\"{colour}\"/>", outline(mark(number)));
    }
    svg + "</svg>"
}

/// A bar's colour, for a key.
pub(super) fn bar_sample(colour: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 12 12\" width=\"12\" height=\"12\" aria-hidden=\"true\" focusable=\"false\">\
         <path d=\"M0 0H12V12H0Z\" fill=\"{colour}\"/></svg>"
    )
}

/// Outline of a mark around the middle of a key's sample.
fn outline(mark: MarkerShape) -> &'static str {
    match mark {
        MarkerShape::Square => "M13 2H21V10H13Z",
        MarkerShape::Triangle => "M17 2L21.5 10H12.5Z",
        MarkerShape::Diamond => "M17 1.5L21.5 6L17 10.5L12.5 6Z",
        MarkerShape::TriangleDown => "M17 10L21.5 2H12.5Z",
        _ => "M13 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    }
}
