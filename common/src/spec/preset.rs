//! Named settings that a run starts from, and the merging of overrides.

use super::SpecError;

/// Settings under one name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Name.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// The settings, as TOML.
    pub toml: &'static str,
}

/// All presets. A new one is one entry.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "tessera",
        help: "our default: zero fill, prototype contrast, blocks averaged by their own counts, whitened prototypes",
        toml: r#"
            strategy = { kind = "pmcm", blockwise = true }
            missing = { fill = "zero", mask = "none", inference = "whitened" }
            prototypes = { contrast = 0.3, contrast_fused = 0.3, tau = 0.1, min_count = 8, library = "fresh" }
        "#,
    },
    Preset {
        name: "pmcmfl",
        help: "the PmcmFL paper: noise fill, label masks, prototype contrast, nearest uploaded prototype at inference",
        toml: r#"
            strategy = { kind = "pmcm", blockwise = false }
            missing = { fill = "noise", mask = "label", mask_probability = 1.0, warmup = 1, inference = "near" }
            prototypes = { contrast = 0.3, contrast_fused = 0.3, tau = 0.1, min_count = 1, library = "uploaded" }
        "#,
    },
    Preset {
        name: "fedavg-zero",
        help: "the usual baseline: FedAvg, zeros for what is missing, the head answers",
        toml: r#"
            strategy = { kind = "fedavg", blockwise = false }
            missing = { fill = "zero", mask = "none", inference = "head" }
            prototypes = { contrast = 0.0, contrast_fused = 0.0, min_count = 1 }
        "#,
    },
    Preset {
        name: "fedavg-noise",
        help: "the paper's baseline: FedAvg, fresh noise for what is missing, the head answers",
        toml: r#"
            strategy = { kind = "fedavg", blockwise = false }
            missing = { fill = "noise", mask = "none", inference = "head" }
            prototypes = { contrast = 0.0, contrast_fused = 0.0, min_count = 1 }
        "#,
    },
];

impl Preset {
    /// The preset of this name.
    ///
    /// # Errors
    /// If there is none; names the nearest.
    pub fn find(name: &str) -> Result<&'static Preset, SpecError> {
        PRESETS.iter().find(|p| p.name == name).ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
            SpecError::unknown_name("preset", name, &names)
        })
    }

    /// The settings as a table.
    pub fn table(&self) -> toml::Table {
        toml::from_str(self.toml).expect("presets are constants and a test parses each")
    }
}

/// Lays `over` onto `base`: tables merge key by key, everything else is replaced.
pub fn merge(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            // `kind` chooses what the other keys mean, so a new one starts from nothing.
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if new.get("kind").is_none_or(|k| old.get("kind") == Some(k)) =>
            {
                merge(old, new);
            }
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Most parts of a dotted key: each is a table within a table, and dropping those goes as deep as they do.
const MAX_PARTS: usize = 16;

/// Sets a dotted key from the command line, `cohort.size=9`: the value is TOML, or else text.
///
/// # Errors
/// If there is no `=`, or a part of the key is empty or names a value that is no table.
pub fn set_key(table: &mut toml::Table, assignment: &str) -> Result<(), SpecError> {
    let (path, text) =
        assignment.split_once('=').ok_or_else(|| SpecError::invalid(assignment, "write key=value, such as cohort.size=9"))?;
    let value = toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut parts: Vec<&str> = path.trim().split('.').collect();
    if parts.iter().any(|p| p.is_empty()) {
        return Err(SpecError::invalid(path, "a part of the key is empty"));
    }
    if parts.len() > MAX_PARTS {
        return Err(SpecError::invalid(path, format!("the key has {} parts, at most {MAX_PARTS} are taken", parts.len())));
    }
    let last = parts.pop().unwrap_or_default();
    let mut at = table;
    for part in parts {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(|| SpecError::invalid(path, format!("`{part}` is a value, not a table")))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}
