//! CSV and TSV with a header line.

use super::{Flaw, Index, Matrix, Opened, Pick, Scalar, Source, unknown};
use csv::{ReaderBuilder, StringRecord, Trim};
use std::collections::BTreeMap;

/// Most columns.
const MAX_COLUMNS: usize = 1_000_000;
/// Longest field, in bytes: a quote that is not closed takes in the rest of the file.
const MAX_FIELD: usize = 64 << 10;

/// An opened file.
struct Table {
    /// Names of the columns in the file's order.
    header: Vec<String>,
    /// Place of each column by name.
    places: BTreeMap<String, usize>,
    records: Vec<StringRecord>,
}

/// Opens a file with commas.
pub(super) fn open_csv(bytes: Vec<u8>) -> Opened {
    open(&bytes, b',')
}

/// Opens a file with tabs.
pub(super) fn open_tsv(bytes: Vec<u8>) -> Opened {
    open(&bytes, b'\t')
}

fn open(bytes: &[u8], delimiter: u8) -> Opened {
    // spreadsheets put a byte order mark before the first name
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let broken = |e: csv::Error| {
        let place = e.position().map(|p| format!("line {}", p.line())).unwrap_or_default();
        Flaw::new(place, format!("is not a table: {e}"))
    };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).trim(Trim::All).from_reader(bytes);
    let header: Vec<String> = reader.headers().map_err(broken)?.iter().map(str::to_owned).collect();
    if header.len() > MAX_COLUMNS {
        return Err(Flaw::new("line 1", format!("there are {} columns; at most {MAX_COLUMNS} are read", header.len())));
    }
    if let Some(name) = header.iter().find(|name| name.len() > MAX_FIELD) {
        return Err(Flaw::new("line 1", too_long(name.len())));
    }
    let mut places = BTreeMap::new();
    for (place, name) in header.iter().enumerate() {
        if places.insert(name.clone(), place).is_some() {
            return Err(Flaw::new("line 1", format!("two columns are named {name:?}")));
        }
    }
    let mut records: Vec<StringRecord> = Vec::new();
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let longest = record.iter().map(str::len).max().unwrap_or(0);
        if longest > MAX_FIELD {
            let place = record.position().map(|p| format!("line {}", p.line())).unwrap_or_default();
            return Err(Flaw::new(place, too_long(longest)));
        }
        records.push(record);
    }
    Ok(Box::new(Table { header, places, records }))
}

fn too_long(bytes: usize) -> String {
    format!("there is a field of {bytes} bytes; at most {MAX_FIELD} are read: is a quote not closed?")
}

impl Table {
    fn place(&self, name: &str) -> Result<usize, Flaw> {
        self.places.get(name).copied().ok_or_else(|| {
            let names: Vec<&str> = self.header.iter().map(String::as_str).collect();
            Flaw::new("", unknown("column", name, &names))
        })
    }

    /// Places of the columns that `pick` means.
    fn places(&self, pick: &Pick) -> Result<Vec<usize>, Flaw> {
        if pick.size.is_some() {
            return Err(Flaw::new("", "`size` is for arrays of pictures and for `image`"));
        }
        if pick.key.is_some() || pick.slice.is_some() {
            return Err(Flaw::new(
                "",
                "`key` and `slice` are for arrays; the features of a table are named by `columns` or `prefix`",
            ));
        }
        match (&pick.columns, &pick.prefix) {
            (Some(columns), None) => columns
                .iter()
                .map(|column| match column {
                    Index::Text(name) => self.place(name),
                    Index::At(_) => Err(Flaw::new("", format!("column {column} has no name; the columns of a table are named"))),
                })
                .collect(),
            (None, Some(prefix)) => {
                let places: Vec<usize> =
                    (0..self.header.len()).filter(|&at| self.header[at].starts_with(prefix.as_str())).collect();
                if places.is_empty() {
                    return Err(Flaw::new("", format!("no column starts with {prefix:?}; there are {}", self.header.join(", "))));
                }
                Ok(places)
            }
            _ => Err(Flaw::new("", "say which columns are features: `columns = [\"a\", \"b\"]` or `prefix = \"a\"`")),
        }
    }

    fn line(&self, row: usize) -> String {
        // without a position (never so for a record that was read) the row says where
        match self.records[row].position() {
            Some(position) => format!("line {}", position.line()),
            None => format!("row {row}"),
        }
    }
}

impl Source for Table {
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        let places = self.places(pick)?;
        let mut values = Vec::with_capacity(self.records.len() * places.len());
        for (row, record) in self.records.iter().enumerate() {
            for &place in &places {
                let text = &record[place];
                let value = match text {
                    "" | "NA" | "na" => f64::NAN,
                    text => text.parse().map_err(|_| {
                        let at = format!("column {}, {}", self.header[place], self.line(row));
                        Flaw::new(at, format!("{text:?} is not a number"))
                    })?,
                };
                values.push(value as f32);
            }
        }
        let names = places.iter().map(|&place| self.header[place].clone()).collect();
        Ok(Matrix { rows: self.records.len(), dim: places.len(), values, names: Some(names) })
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        let Some(key) = key else {
            return Err(Flaw::new("", "name the column with `key`"));
        };
        let place = self.place(key)?;
        Ok(self.records.iter().map(|record| Scalar::of(&record[place])).collect())
    }

    fn texts(&self, key: &str) -> Result<Vec<Option<String>>, Flaw> {
        let place = self.place(key)?;
        let text = |record: &StringRecord| Some(record[place].to_owned()).filter(|text| !text.is_empty());
        Ok(self.records.iter().map(text).collect())
    }

    fn rows(&self, _key: Option<&str>) -> Result<usize, Flaw> {
        Ok(self.records.len())
    }
}
