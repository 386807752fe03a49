//! A client and a fold that nobody trains on, and modalities taken away by name.

use super::*;

/// Rows i with client i mod 12 and fold i / 3 mod 3, cut by client.
fn toy_by_client() -> Dataset {
    toy(360, 3, &["a", "b"])
}

#[test]
fn nobody_trains_on_the_client_or_the_fold() {
    let dataset = toy_by_client();
    let (folds, clients) = (dataset.fold.as_ref().unwrap(), dataset.client.as_ref().unwrap());
    let toml = "clients = 11\npartition = { kind = \"column\" }\nsplit = { client = \"3\", fold = 1 }";
    let manifest = make(&dataset, toml, 5);
    assert_eq!(manifest.members.iter().map(|m| m.ids[0].as_str()).collect::<Vec<_>>().join(" "), "0 1 2 4 5 6 7 8 9 10 11");
    let of = |keep: &dyn Fn(usize) -> bool| (0..360).filter(|&row| keep(row)).collect::<Vec<_>>();
    assert_eq!(manifest.test, of(&|row| clients[row] == "3" && folds[row] != 1));
    assert_eq!(manifest.held_out, of(&|row| clients[row] == "3" && folds[row] == 1));
    for member in &manifest.members {
        assert_eq!(member.train, of(&|row| clients[row] == member.ids[0] && folds[row] != 1));
        assert_eq!(member.held_out, of(&|row| clients[row] == member.ids[0] && folds[row] == 1));
    }
    let evaluator = manifest.member_samples(&dataset, EVALUATOR).unwrap();
    check_samples(&evaluator.test, &manifest.test, &dataset);
    check_samples(&evaluator.held_out, &manifest.held_out, &dataset);
    assert!(evaluator.train.is_empty());
    assert_eq!(Manifest::from_json("m.json", &manifest.to_json()).unwrap(), manifest);
    assert!(manifest.summary().to_string().contains("110 rows set aside, 20 to test and 10 held out there, 0 discarded"));
    // fewer members than ids hold what their ids have
    let few = make(&dataset, &toml.replace("11", "2"), 5);
    assert!(few.members.iter().all(|m| m.held_out.iter().all(|&row| m.ids.contains(&clients[row]) && folds[row] == 1)));
    assert_eq!(few.members.iter().map(|m| m.held_out.len()).sum::<usize>(), 110);
    // the evaluator alone measures, and nobody trains on more than before
    let alone = make(&dataset, &toml.replace("fold = 1", "fold = 1, members = false"), 5);
    assert!(alone.members.iter().zip(&manifest.members).all(|(a, b)| a.held_out.is_empty() && a.train == b.train));
    assert_eq!((&alone.test, &alone.held_out), (&manifest.test, &manifest.held_out));
}

#[test]
fn a_client_alone_is_the_test() {
    let dataset = toy_by_client();
    for partition in ["{ kind = \"column\" }", "{ kind = \"iid\" }"] {
        let toml = format!("clients = 3\npartition = {partition}\nsplit = {{ client = \"3\" }}\nheld_out = 0.1");
        let manifest = make(&dataset, &toml, 0);
        assert_eq!(manifest.test, (0..360).filter(|row| row % 12 == 3).collect::<Vec<_>>());
        assert!(manifest.held_out.is_empty() && !manifest.to_json().contains("\"test\":[3],\"held_out\""));
        assert_eq!(sizes(&manifest).iter().sum::<usize>(), 330);
    }
}

#[test]
fn members_lack_what_is_said_by_name() {
    let dataset = toy_by_client();
    let clients = dataset.client.as_ref().unwrap();
    let toml = "clients = 5\npartition = { kind = \"column\" }\n\
        missing = { kind = \"members\", lacks = { 1 = [\"b\"], 6 = [\"a\"], client-02 = [\"b\"] } }";
    let manifest = make(&dataset, toml, 0);
    for member in &manifest.members {
        for (&row, &mask) in member.train.iter().zip(&member.present) {
            let expected = match (clients[row].as_str(), member.name.as_str()) {
                ("1", _) | (_, "client-02") => 1,
                ("6", _) => 2,
                _ => 3,
            };
            assert_eq!(mask, expected, "{} {row}", member.name);
        }
    }
    // a value of the column means its rows, wherever they went; both together leave nothing
    let all = "clients = 12\npartition = { kind = \"column\" }\n\
        missing = { kind = \"members\", lacks = { 1 = [\"b\"], client-01 = [\"a\"] } }";
    assert_eq!(make(&dataset, all, 0).members[1].discarded.len(), 30);
    let drawn = "clients = 2\nmissing = { kind = \"members\", lacks = { client-01 = [\"a\"] } }";
    let masks: Vec<u32> = make(&dataset, drawn, 0).members.iter().map(|m| m.present[0]).collect();
    assert_eq!(masks, [3, 2]);
}

#[test]
fn names_that_are_not_there_are_refused() {
    let dataset = toy_by_client();
    let column = "clients = 2\npartition = { kind = \"column\" }\n";
    for (toml, why) in [
        ("split = { client = \"1\", fold = 0 }\nclients = 2", "set partition = { kind = \"column\" }"),
        (&format!("{column}split = {{ client = \"1\", fold = 0 }}\nheld_out = 0.1"), "leave it out"),
        (&format!("{column}split = {{ client = \"1\", test_per_class = 3 }}"), "give test_per_class or client, not both"),
        (&format!("{column}split = {{ client = \"1\", fold = 7 }}"), "there is no fold 7"),
        (
            &format!("{column}split = {{ client = \"111\" }}"),
            "`data.split.client` is not valid: there is no \"111\"; did you mean",
        ),
        (&format!("{column}split = {{ cleint = \"1\" }}"), "did you mean `client`?"),
        (&format!("{column}missing = {{ kind = \"members\", lacks = {{}} }}"), "name members and what they lack"),
        (
            &format!("{column}missing = {{ kind = \"members\", lacks = {{ client-11 = [\"a\"] }} }}"),
            "`data.missing.lacks` is not valid: there is no \"client-11\"; did you mean `client-01`?",
        ),
        (
            &format!("{column}split = {{ client = \"3\" }}\nmissing = {{ kind = \"members\", lacks = {{ 3 = [\"a\"] }} }}"),
            "there is no \"3\"",
        ),
        (
            "clients = 2\nmissing = { kind = \"members\", lacks = { 3 = [\"a\"] } }",
            "there is no \"3\"; valid: client-00, client-01",
        ),
        (
            &format!("{column}missing = {{ kind = \"members\", lacks = {{ 3 = [\"txt\"] }} }}"),
            "`data.missing.lacks.3` is not valid: there is no \"txt\"",
        ),
    ] {
        let refused = refusal(&dataset, toml);
        assert!(refused.contains(why), "{toml}: {refused}");
    }
}

#[test]
fn a_manifest_from_before_is_read() {
    let manifest = make(&toy_by_client(), "clients = 2\nsplit = { fold = 0 }", 0);
    let json = manifest.to_json();
    assert!(!json.contains("client\":") && json.matches("held_out").count() == 3, "no key is new");
    assert_eq!(Manifest::from_json("m.json", &json).unwrap(), manifest);
}

#[test]
fn the_documented_cut_of_the_emoji() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "data", "emoji", "things.toml"].iter().collect();
    let emoji = Dataset::load(&folder).unwrap();
    let docs = include_str!("../../../../../docs/data.md").split("### A new site and new things").nth(1).unwrap();
    let toml = docs.split("```toml\n[data]\n").nth(1).and_then(|toml| toml.split("```").next()).unwrap();
    let spec = DataSpec::from_table(&toml::from_str(toml).unwrap()).unwrap();
    let manifest = Manifest::make(&emoji, &spec, 0).unwrap();
    assert!(docs.contains(&manifest.summary().to_string()), "{}", manifest.summary());
    let lacks: Vec<(&str, u32)> = manifest.members.iter().map(|m| (m.ids[0].as_str(), m.present[0])).collect();
    assert_eq!(lacks, [("fluent", 3), ("noto", 1), ("twemoji", 2)]);
    // the name is kept for what a member holds out, so that both directions can be evaluated there
    assert!(manifest.member_samples(&emoji, "client-01").unwrap().held_out.present.iter().all(|&mask| mask == 3));
}
