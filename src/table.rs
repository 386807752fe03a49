//! Tables for people.

use tabled::builder::Builder;
use tabled::settings::Style;

/// Rows under a heading.
#[derive(Debug, Default)]
pub(crate) struct Table(Builder);

impl Table {
    pub(crate) fn new<S: Into<String>>(heading: impl IntoIterator<Item = S>) -> Self {
        let mut builder = Builder::default();
        builder.push_record(heading.into_iter().map(Into::into));
        Self(builder)
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.0.push_record(cells.into_iter().map(Into::into));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = self.0.clone().build();
        table.with(Style::psql());
        write!(f, "{table}")
    }
}
