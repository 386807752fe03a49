//! Decoders of the agent's data.

use super::told;
use tessera_client::data::{DataError, DataSpec, Dataset, EVALUATOR, Manifest};

/// Three samples of everything, for data sets of which one file is hostile.
const TABLE: &[u8] = b"id,x0,x1,y,fold,ward,has\np1,1,2,0,0,a,1\np2,3,,1,1,b,0\np3,5,6,2,0,a,1\n";
const NPY: &[u8] = b"\x93NUMPY\x01\x00\x38\x00{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}\n\x00\x01\x02";
const TENSORS: &[u8] = b"\x39\x00\x00\x00\x00\x00\x00\x00{\"a\":{\"dtype\":\"U8\",\"shape\":[3,2],\"data_offsets\":[0,6]}}  \x00\x01\x02\x03\x04\x05";

/// The files that all data sets here have, beside their own.
pub(super) const FILES: &[(&str, &[u8])] = &[("t.csv", TABLE), ("a.npy", NPY), ("a.safetensors", TENSORS)];

/// What must hold for a data set that was taken.
fn sound(loaded: Result<Dataset, DataError>) {
    let dataset = match loaded {
        Ok(dataset) => dataset,
        Err(error) => return told(&error),
    };
    let samples = &dataset.samples;
    let n = samples.len();
    assert!(n > 0 && samples.present.len() == n && samples.labels.iter().all(|&l| (l as usize) < dataset.classes.len()));
    for modality in &samples.modalities {
        assert_eq!(modality.values.len(), n * modality.dim);
        assert!(modality.values.iter().all(|v| v.is_finite()));
    }
    assert!(dataset.fold.as_ref().is_none_or(|f| f.len() == n) && dataset.client.as_ref().is_none_or(|c| c.len() == n));
    let Dataset { name, classes, samples, fold, client, digest, card, notes: _ } = dataset;
    let again = Dataset::new(&name, classes, samples, fold, client, card);
    assert_eq!(again.map(|d| d.digest).ok(), Some(digest), "the digest is that of the contents");
}

fn load(layout: &str, file: (&str, &[u8])) {
    let own = [("dataset.toml", layout.as_bytes()), file];
    sound(Dataset::from_files(&[&own[..], FILES].concat()));
}

/// A `dataset.toml` beside sound files.
pub(super) fn dataset(data: &[u8]) {
    sound(Dataset::from_files(&[&[("dataset.toml", data)], FILES].concat()));
}

/// An npy file, as features beside other labels and as labels.
pub(super) fn npy(data: &[u8]) {
    let file = ("x.npy", data);
    let label = "name = 'f'\nclasses = 3\n[modalities.m]\nfile = 'x.npy'\nmissing = 'any-nan'\n[label]\n";
    load(&format!("{label}file = 't.csv'\nkey = 'y'\n"), file);
    load(&format!("{label}file = 'x.npy'\nunknown = 255\n"), file);
    let slice =
        "name = 'f'\nclasses = 3\n[modalities.m]\nfile = 'x.npy'\nslice = ['..1', '0..2']\n[label]\nfile = 't.csv'\nkey = 'y'\n";
    load(slice, file);
}

/// A safetensors file, likewise.
pub(super) fn safetensors(data: &[u8]) {
    let file = ("x.safetensors", data);
    let one = "name = 'f'\nclasses = 3\n[modalities.m]\nfile = 'x.safetensors'\nmissing = 'nan'\n[label]\n";
    load(&format!("{one}file = 't.csv'\nkey = 'y'\n"), file);
    let keys = "name = 'f'\nclasses = 300\n[modalities.m]\nfile = 'x.safetensors'\nkey = 'a'\ncolumns = ['0..1']\n[label]\n";
    load(&format!("{keys}file = 'x.safetensors'\nkey = 'y'\n"), file);
}

fn table(file: (&str, &[u8])) {
    let name = file.0;
    let plain = format!(
        "name = 'f'\nclasses = 3\n[modalities.m]\nfile = '{name}'\nprefix = 'x'\nmissing = 'nan'\n[label]\nfile = '{name}'\nkey = 'y'\n"
    );
    load(&plain, file);
    let joined = format!(
        "id = 'id'\n{plain}[fold]\nfile = '{name}'\nkey = 'fold'\n[client]\nfile = 't.csv'\nkey = 'ward'\n[modalities.n]\nfile = 't.csv'\n\
         columns = ['x0', 'x1']\nhas = {{ file = '{name}', key = 'has' }}\n"
    );
    load(&joined, file);
}

/// A table with commas.
pub(super) fn csv(data: &[u8]) {
    table(("x.csv", data));
}

/// A table with tabs.
pub(super) fn tsv(data: &[u8]) {
    table(("x.tsv", data));
}

/// Lines of JSON, as a table and as texts.
pub(super) fn jsonl(data: &[u8]) {
    table(("x.jsonl", data));
    let texts = "name = 'f'\n[modalities.m]\nfile = ['x.jsonl', 'x.jsonl']\ntext = 'x0'\nbytes = 4\nmissing = 'nan'\n[samples]\nfile = ['x.jsonl', 'x.jsonl']\n";
    load(texts, ("x.jsonl", data));
}

/// The file of a picture.
pub(super) fn picture(data: &[u8]) {
    // twice, so that another thread decodes them: what a picture may take is bounded by itself
    let lines = "{\"path\": \"x\"}\n{\"path\": \"x\"}";
    let layout = "name = 'f'\n[modalities.m]\nfile = 'p.jsonl'\nimage = 'path'\nsize = 3\n[samples]\nfile = 'p.jsonl'\n";
    let files = |layout| [("dataset.toml", layout), ("p.jsonl", lines.as_bytes()), ("x", data)];
    sound(Dataset::from_files(&files(layout.as_bytes())));
    sound(Dataset::from_files(&files(layout.replace("size", "skip = 2\nsize").as_bytes())));
}

/// A shard.
pub(super) fn shard(data: &[u8]) {
    let layout = "name = 'f'\nclasses = 3\n[modalities.m]\nfile = 'x.tar'\nimage = 'png'\nsize = 1\nskip = 9\nmissing = 'nan'\n\
                  [modalities.n]\nfile = 'x.tar'\ntext = 'txt'\nbytes = 3\nmissing = 'nan'\n[label]\nfile = 'x.tar'\nkey = 'json:y'\n";
    load(layout, ("x.tar", data));
    load(&format!("id = '__key__'\n{}", layout.replace("json:y", "cls")), ("x.tar", data));
}

/// A `[data]` table.
pub(super) fn data_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(table) = tessera_common::spec::parse_document(text) else { return };
    match DataSpec::from_table(&table) {
        Err(error) => told(&error),
        Ok(spec) => {
            let again = toml::Table::try_from(&spec).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(DataSpec::from_table(&again), Ok(spec));
        }
    }
}

/// The manifest of a partition, by itself and over a data set that it is about.
pub(super) fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut manifest = match Manifest::from_json("partition.json", text) {
        Ok(manifest) => manifest,
        Err(error) => return told(&error),
    };
    let written = manifest.to_json();
    let again = Manifest::from_json("partition.json", &written).unwrap_or_else(|e| panic!("a manifest is not read again: {e}"));
    assert_eq!(again.to_json(), written);
    let layout = "name = 'f'\nclasses = 3\n[modalities.a]\nfile = 'a.npy'\n[modalities.b]\nfile = 'a.safetensors'\n[label]\nfile = 't.csv'\nkey = 'y'\n";
    let dataset =
        Dataset::from_files(&[&[("dataset.toml", layout.as_bytes())], FILES].concat()).unwrap_or_else(|e| panic!("{e}"));
    // a manifest of other data is refused by its digest; here it is taken for one of these
    manifest.dataset.digest = dataset.digest;
    let names: Vec<String> = manifest.members.iter().map(|m| m.name.to_string()).collect();
    for name in names.iter().map(String::as_str).chain([EVALUATOR, "nobody"]) {
        if let Err(error) = manifest.member_samples(&dataset, name) {
            told(&error);
        }
    }
}
