//! Looking at a journal without opening it for more: nothing is locked, cut off or written.

use super::{HEAD, Journal, Mark, Visit, read_record, starts_intact};
use crate::error::Error;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

/// What a look at a journal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// Intact records.
    pub records: u64,
    /// Bytes behind them: a record that a crash tore, or that is being written.
    pub torn_bytes: u64,
}

impl Journal {
    /// Shows every intact record to `each`: its mark and its payload. The file is only read, so this also works beside a
    /// coordinator that appends to it.
    ///
    /// # Errors
    /// If a record is damaged and intact ones follow it, if the chain is broken, or if `each` says so.
    pub fn scan(path: &Path, spec_toml: &str, each: &mut Visit<'_>) -> Result<Scan, Error> {
        let file = File::open(path).map_err(Error::io("cannot open", path))?;
        walk(file, path, spec_toml, each).map(|end| end.scan())
    }

    /// As [`Self::scan`], of a journal that is in memory.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn scan_bytes(bytes: &[u8], spec_toml: &str, each: &mut Visit<'_>) -> Result<Scan, Error> {
        walk(Cursor::new(bytes), Path::new("the journal"), spec_toml, each).map(|end| end.scan())
    }
}

/// Where the intact records of a journal end.
pub(super) struct End {
    pub(super) mark: Mark,
    /// Offset behind the last intact record.
    pub(super) at: u64,
    /// What is wrong with the bytes behind it, and how many they are.
    pub(super) torn: Option<(&'static str, u64)>,
}

impl End {
    fn scan(&self) -> Scan {
        Scan { records: self.mark.records, torn_bytes: self.torn.map_or(0, |(_, bytes)| bytes) }
    }
}

/// Reads a journal from its start.
pub(super) fn walk(mut file: impl Read + Seek, path: &Path, spec_toml: &str, each: &mut Visit<'_>) -> Result<End, Error> {
    // what is appended meanwhile is not looked at
    let total = file.seek(SeekFrom::End(0)).and_then(|end| file.rewind().map(|()| end));
    let total = total.map_err(Error::io("cannot look at", path))?;
    let mut reader = BufReader::with_capacity(1 << 18, file).take(total);
    let mut mark = Mark::start(spec_toml);
    let (mut at, mut payload) = (0, Vec::new());
    while at < total {
        let damaged = |why: &str| Error::Journal { path: path.to_owned(), offset: at, why: why.to_owned() };
        let chain = match read_record(&mut reader, &mut payload).map_err(Error::io("cannot read", path))? {
            Ok(chain) => chain,
            Err(damage) => {
                let rest = read_from(reader.into_inner().into_inner(), at, total).map_err(Error::io("cannot read", path))?;
                if (1..rest.len()).any(|i| starts_intact(&rest[i..])) {
                    return Err(damaged(damage));
                }
                return Ok(End { mark, at, torn: Some((damage, total - at)) });
            }
        };
        let next = mark.after(&payload);
        if next.chain != chain {
            return Err(damaged("it does not follow from what is before it: the file or the spec was altered"));
        }
        mark = next;
        at += (HEAD + payload.len()) as u64;
        each(mark, &payload)?;
    }
    Ok(End { mark, at, torn: None })
}

fn read_from(mut file: impl Read + Seek, at: u64, total: u64) -> std::io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(total - at).read_to_end(&mut rest)?;
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Entry;
    use std::fs;
    use tempfile::TempDir;
    use tessera_common::round::Event;

    const SPEC: &str = "name = \"t\"";

    fn scan(path: &Path) -> Result<(Scan, Vec<u64>), Error> {
        let mut seen = Vec::new();
        let scan = Journal::scan(path, SPEC, &mut |_, payload| {
            seen.push(serde_json::from_slice::<Entry>(payload).unwrap().at);
            Ok(())
        })?;
        Ok((scan, seen))
    }

    #[test]
    fn a_torn_tail_is_told_and_left_as_it_is() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path, SPEC).unwrap();
        for at in 0..3 {
            journal.append(&[Entry { at, event: Event::Ticked }]).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        assert_eq!(scan(&path).unwrap(), (Scan { records: 3, torn_bytes: 0 }, vec![0, 1, 2]));
        let record = whole.len() / 3;
        for cut in 1..record {
            fs::write(&path, &whole[..2 * record + cut]).unwrap();
            assert_eq!(scan(&path).unwrap(), (Scan { records: 2, torn_bytes: cut as u64 }, vec![0, 1]));
            assert_eq!(fs::read(&path).unwrap(), whole[..2 * record + cut]);
        }

        let mut damaged = whole.clone();
        damaged[record + 50] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = scan(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("the record at byte {record} is damaged")), "{error}");
        fs::write(&path, &whole).unwrap();
        let error = Journal::scan(&path, "name = \"u\"", &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("the file or the spec was altered"), "{error}");
    }
}
