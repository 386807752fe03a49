use super::*;

const GOOD: &str = r#"
version = 1
name = "t"
rounds = 3
[task]
kind = "classify"
classes = 10
modalities = { left = 32, right = 32 }
[cohort]
members = 4
size = 2
deadline = "1m 30s"
"#;

#[test]
fn a_spec_survives_its_text() {
    let spec = RunSpec::from_toml(GOOD).unwrap();
    assert_eq!(spec.cohort.deadline, Duration::from_secs(90));
    assert_eq!(RunSpec::from_toml(&spec.to_toml()).unwrap(), spec);
}

#[test]
fn errors_name_the_key_and_what_would_be_right() {
    let cases = [
        ("size = 2", "size = 2\nquorom = 2", "unknown key `quorom` at line 12: did you mean `quorum`?"),
        ("size = 2", "size = 9", "`cohort.size` is not valid: must be 1 to cohort.members"),
        ("\"1m 30s\"", "90", "expected a duration with its unit, such as \"90s\""),
        ("\"1m 30s\"", "\"90\"", "not a duration such as"),
        ("rounds = 3", "rounds = 0", "`rounds`"),
        ("rounds = 3", "rounds = 3\nstrategy = { kind = \"fedavgg\" }", "did you mean `fedavg`?"),
        (
            "rounds = 3",
            "rounds = 3\nstrategy = { kind = \"fedprox\", muu = 1.0 }",
            "unknown key `muu` in [strategy]: did you mean `mu`?",
        ),
        ("rounds = 3", "rounds = 3\ntrain = { optimizer = \"adm\" }", "did you mean `adam`?"),
        ("rounds = 3", "rounds = 3\ntrain = { weight_decay = 0.1 }", "use optimizer = \"adamw\""),
        ("left = 32", "fused = 32", "'fused' is reserved"),
        ("version = 1", "version = 2", "this build reads version 1"),
        ("classes = 10", "classes = 1", "`task.classes`"),
    ];
    for (old, new, expected) in cases {
        let error = RunSpec::from_toml(&GOOD.replacen(old, new, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "for {new:?}: {error}");
    }
}

#[test]
fn every_preset_makes_a_valid_spec() {
    for preset in PRESETS {
        let mut table: toml::Table = toml::from_str(GOOD).unwrap();
        merge(&mut table, &preset.table());
        RunSpec::from_table(&table).unwrap_or_else(|e| panic!("{}: {e}", preset.name));
    }
    assert!(Preset::find("pmcm-fl").unwrap_err().to_string().contains("did you mean `pmcmfl`"));
}

#[test]
fn overrides_take_toml_values_or_text() {
    let mut table: toml::Table = toml::from_str(GOOD).unwrap();
    for set in ["cohort.size=3", "missing.fill=noise", "train.lr=0.01", "strategy.kind=fedprox"] {
        set_key(&mut table, set).unwrap();
    }
    let spec = RunSpec::from_table(&table).unwrap();
    assert_eq!((spec.cohort.size, spec.missing.fill, spec.train.lr), (3, Fill::Noise, 0.01));
    assert_eq!(spec.strategy_kind(), "fedprox");
    for bad in ["cohort", "cohort..size=3", "rounds.x=1"] {
        assert!(set_key(&mut table, bad).is_err(), "{bad}");
    }
}

#[test]
fn errors_in_merged_text_show_the_key_and_no_line() {
    let mut table: toml::Table = toml::from_str(GOOD).unwrap();
    set_key(&mut table, "cohort.deadline=90").unwrap();
    let error = RunSpec::from_table(&table).unwrap_err().to_string();
    assert!(error.contains("deadline = 90") && error.contains("such as \"90s\"") && !error.contains("at line"), "{error}");
    ["cohort.deadline=90s", "rouns=3"].into_iter().for_each(|s| set_key(&mut table, s).unwrap());
    let error = RunSpec::from_table(&table).unwrap_err().to_string();
    assert!(error.contains("did you mean `rounds`") && !error.contains("at line"), "{error}");
}

#[test]
fn a_new_kind_starts_from_nothing() {
    let mut base: toml::Table = toml::from_str("strategy = { kind = \"fedprox\", mu = 1.0 }").unwrap();
    merge(&mut base, &toml::from_str("strategy = { kind = \"fedavg\" }").unwrap());
    assert_eq!(base["strategy"].as_table().unwrap().len(), 1);
}
