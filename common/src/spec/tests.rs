use super::*;
use std::time::Duration;

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
    let more = "deadline = \"1m 30s\"\npatience = \"20s\"\nabsence = \"500ms\"\nlate = \"next-round\"\nstrikes = 0\n\
                [keep]\nglobals = 1\nbest = \"test/head/left\"\nupdates = true\n";
    let spec = RunSpec::from_toml(&GOOD.replacen("deadline = \"1m 30s\"", more, 1)).unwrap();
    assert_eq!(spec.cohort.absence, Some(Duration::from_millis(500)));
    assert_eq!(
        (spec.cohort.late, spec.cohort.staleness, spec.keep.best.as_deref()),
        (Late::NextRound, 0.5, Some("test/head/left"))
    );
    assert_eq!(RunSpec::from_toml(&spec.to_toml()).unwrap(), spec);
}

#[test]
fn a_stored_spec_without_rules_has_those_of_the_version_before() {
    assert_eq!(RunSpec::from_toml(GOOD).unwrap().rules, RULES);
    let old = RunSpec::stored(GOOD).unwrap();
    assert_eq!(old.rules, 1);
    assert_eq!(RunSpec::stored(&old.to_toml()).unwrap(), old);
    let new = RunSpec::from_toml(GOOD).unwrap();
    assert_eq!(RunSpec::stored(&new.to_toml()).unwrap(), new, "every key is written out");
    assert!(RunSpec::stored(&GOOD.replacen("rounds", "rouns", 1)).is_err());
}

#[test]
fn the_quorum_is_all_that_are_used() {
    let spec = RunSpec::from_toml(&GOOD.replacen("size = 2", "size = 4\nmost = 3", 1)).unwrap();
    assert_eq!((spec.cohort.most(), spec.cohort.quorum()), (3, 3));
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
        ("version = 1", "version = 1\nrules = 3", "`rules` is not valid: this build knows rules 1 and 2"),
        ("size = 2", "size = 2\npatience = \"2m\"", "`cohort.patience` is not valid: must be at most cohort.deadline"),
        ("size = 2", "size = 2\nabsence = \"0s\"", "`cohort.absence` is not valid"),
        ("size = 2", "size = 2\nabsence = 5", "expected a duration with its unit"),
        ("size = 2", "size = 2\nlate = \"next\"", "did you mean `next-round`?"),
        ("size = 2", "size = 2\nstaleness = 1.5", "`cohort.staleness` is not valid: must be in [0, 1]"),
        ("size = 2", "size = 2\nstaleness = nan", "`cohort.staleness` is not valid"),
        ("size = 2", "size = 2\nmost = 3", "`cohort.most` is not valid: must be 1 to cohort.size"),
        ("size = 2", "size = 2\nmost = 1\nquorum = 2", "`cohort.quorum` is not valid: must be 1 to cohort.most"),
        ("size = 2", "size = 2\nstrikes = 2000", "`cohort.strikes`"),
        ("rounds = 3", "rounds = 3\nkeep = { globals = 0 }", "`keep.globals` is not valid: must be 1"),
        ("rounds = 3", "rounds = 3\nkeep = { best = \"\" }", "`keep.best` is not valid: name a metric"),
        ("rounds = 3", "rounds = 3\nkeep = { global = 1 }", "did you mean `globals`?"),
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

#[test]
fn a_text_of_any_length_is_answered_in_short() {
    let long = format!("{GOOD}\n# {}", "x".repeat(MAX_TEXT));
    assert!(RunSpec::from_toml(&long).unwrap_err().to_string().contains("at most 524288 are read"));
    assert!(parse_document(&long).is_err() && RunSpec::stored(&long).is_err());
    let name = "k".repeat(300_000);
    for bad in
        [format!("{name} = 1\n{GOOD}"), GOOD.replace("classify", &name) + "\u{1}", format!("version = {name}"), name.clone()]
    {
        let error = RunSpec::from_toml(&bad).unwrap_err().to_string();
        assert!(error.len() < 5000, "{} bytes", error.len());
    }
    // comparing two names takes the product of their lengths
    assert_eq!(nearest(&name, [name.as_str()]), None);
}

#[test]
fn a_spec_that_is_taken_can_be_written_and_read_again() {
    let deep = |n: usize| format!("{GOOD}[model]\n{}a = 1\n", "a.".repeat(n));
    let spec = RunSpec::from_toml(&deep(16)).unwrap();
    assert_eq!(RunSpec::from_toml(&spec.to_toml()).unwrap(), spec);
    let error = RunSpec::from_toml(&deep(17)).unwrap_err().to_string();
    assert!(error.contains("`model`") && error.contains("16 deep"), "{error}");
    // the parser's own limits on keys and on lists add up to more than one of them
    let both = format!("{GOOD}[model{}]\n{}b = {}1{}\n", ".a".repeat(60), "a.".repeat(60), "[".repeat(60), "]".repeat(60));
    assert!(RunSpec::from_toml(&both).is_err());
}

#[test]
fn a_dotted_key_of_any_length_is_answered() {
    let set = |n: usize| set_key(&mut toml::Table::new(), &format!("{}a=1", "a.".repeat(n)));
    assert_eq!(set(15), Ok(()));
    assert!(set(16).unwrap_err().to_string().contains("17 parts"));
    assert!(set(200_000).is_err());
}
