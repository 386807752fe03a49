//! From a file to the spec that is submitted.

use crate::cli::invalid;
use anyhow::Result;
use std::path::Path;
use tessera_common::spec::{Preset, RunSpec, SpecError, merge, set_key};

/// Tables of a simulation, which a coordinator has no use for.
const OF_SIMULATE: [&str; 2] = ["data", "method"];

/// Reads the spec in `path` with overrides such as `cohort.size=9`.
///
/// # Errors
/// Names the file, and what in it is not valid.
pub(crate) fn read(path: &Path, set: &[String]) -> Result<RunSpec> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| invalid(format!("{shown}: {e}")))?;
    understand(&shown, &text, set)
}

/// Understands the text of a spec that comes from `shown`, with overrides.
///
/// # Errors
/// Names `shown` or the override, and what in it is not valid.
pub(super) fn understand(shown: &str, text: &str, set: &[String]) -> Result<RunSpec> {
    let spec = spec(text, set).map_err(|fault| match fault {
        Fault::Spec(error) => invalid(format!("{shown}: {error}")),
        Fault::Set(set, error) => invalid(format!("--set {set}: {error}")),
        Fault::Simulation(tables) => invalid(format!(
            "{shown}: {tables} belong to a simulation, which brings its own data: run `tessera simulate {shown}`. To train on \
             the data of agents, take [data] out, and submit one run for each [[method]], with its keys at the top of the file; \
             a `preset` may stay"
        )),
    })?;
    // The coordinator has no tasks; this binary, if it can train, knows what they refuse.
    #[cfg(feature = "client")]
    tessera_client::task::create(&spec).map_err(|e| invalid(format!("{shown}: {e}")))?;
    Ok(spec)
}

#[derive(Debug)]
enum Fault {
    Spec(SpecError),
    Set(String, SpecError),
    /// The tables, for people.
    Simulation(String),
}

impl From<SpecError> for Fault {
    fn from(error: SpecError) -> Self {
        Self::Spec(error)
    }
}

/// From weak to strong: defaults, preset, keys of the file, overrides.
fn spec(text: &str, set: &[String]) -> Result<RunSpec, Fault> {
    let mut table: toml::Table = toml::from_str(text).map_err(|e| SpecError::Syntax(e.to_string()))?;
    for set in set {
        set_key(&mut table, set).map_err(|e| Fault::Set(set.clone(), e))?;
    }
    let foreign: Vec<String> = OF_SIMULATE.iter().filter(|k| table.contains_key(**k)).map(|k| format!("`{k}`")).collect();
    if !foreign.is_empty() {
        return Err(Fault::Simulation(foreign.join(" and ")));
    }
    let Some(preset) = table.remove("preset") else {
        // as it is written, an error has its line
        return Ok(if set.is_empty() { RunSpec::from_toml(text)? } else { RunSpec::from_table(&table)? });
    };
    let name = preset.as_str().ok_or_else(|| SpecError::invalid("preset", "must be a name"))?;
    let mut merged = Preset::find(name)?.table();
    merge(&mut merged, &table);
    Ok(RunSpec::from_table(&merged)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::spec::{Inference, Mask};

    const SPEC: &str = r#"version = 1
name = "t"
rounds = 3
task = { kind = "classify", classes = 2, modalities = { left = 2 } }
cohort = { members = 3, size = 3 }
"#;

    fn sets(set: &[&str]) -> Vec<String> {
        set.iter().map(|s| (*s).to_owned()).collect()
    }

    fn error(text: &str, set: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spec.toml");
        std::fs::write(&path, text).unwrap();
        let error = read(&path, &sets(set)).unwrap_err();
        assert_eq!(crate::cli::exit_code_of(&error), std::process::ExitCode::from(4));
        error.to_string()
    }

    #[test]
    fn a_preset_lies_under_the_file_and_the_file_under_overrides() {
        assert_eq!(spec(SPEC, &[]).unwrap(), RunSpec::from_toml(SPEC).unwrap());
        let text = format!("preset = \"pmcmfl\"\n{SPEC}missing = {{ inference = \"ncm\" }}\n");
        let plain = spec(&text, &[]).unwrap();
        assert_eq!((plain.missing.mask, plain.missing.inference), (Mask::Label, Inference::Ncm));
        assert_eq!(plain.prototypes.min_count, 1);
        let over = spec(&text, &sets(&["missing.inference=head", "preset=fedavg-zero", "cohort.size=2"])).unwrap();
        assert_eq!((over.missing.mask, over.missing.inference), (Mask::None, Inference::Head));
        assert_eq!((over.strategy_kind(), over.cohort.size), ("fedavg", 2));
        assert!(error(&format!("preset = \"fedavg-zeros\"\n{SPEC}"), &[]).contains("did you mean `fedavg-zero`?"));
        assert!(error(&format!("preset = 3\n{SPEC}"), &[]).contains("must be a name"));
    }

    #[test]
    fn a_simulation_is_told_from_a_run() {
        let method = "\n[[method]]\npreset = \"pmcmfl\"\n";
        let data = "\n[data]\nsource = \"digits\"\n";
        for (text, tables) in [
            (format!("{SPEC}{data}"), "`data` belong"),
            (format!("{SPEC}{method}"), "`method` belong"),
            (format!("{SPEC}{data}{method}"), "`data` and `method` belong"),
            (format!("{SPEC}{data}{method}unknown = 1\n"), "`data` and `method` belong"),
        ] {
            let error = error(&text, &[]);
            assert!(error.contains(tables) && error.contains("tessera simulate") && error.contains("spec.toml"), "{error}");
        }
        assert!(error(SPEC, &["data.source=digits"]).contains("`data` belong"));
    }

    #[test]
    fn errors_have_the_line_of_the_file_where_it_is_taken_as_it_is() {
        let unknown = error(&SPEC.replace("rounds", "round"), &[]);
        assert!(unknown.contains("spec.toml: unknown key `round` at line 3") && unknown.contains("`rounds`"), "{unknown}");
        assert!(error(&SPEC.replace("rounds = 3", "rounds = "), &[]).contains("line 3"));
        let merged = error(&SPEC.replace("rounds", "round"), &["seed=3"]);
        assert!(merged.contains("unknown key `round`") && !merged.contains("line"), "{merged}");
        assert!(error(SPEC, &["seed"]).starts_with("--set seed: "));
    }
}
