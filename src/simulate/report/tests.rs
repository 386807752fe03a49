use super::super::outcome::{Evaluation, Method, Outcome, RoundRecord};
use super::html;
use std::collections::BTreeSet;
use tessera_common::id::Digest;
use tessera_common::metric::{Metric, Metrics};
use tessera_common::spec::{Preset, RunSpec, merge};

const LIMIT: usize = 2_000_000;

fn spec(preset: &str, modalities: &[&str]) -> RunSpec {
    let widths: Vec<String> = modalities.iter().map(|m| format!("{m} = 32")).collect();
    let text = format!(
        "version = 1\nname = \"{preset}\"\nrounds = 40\n[task]\nkind = \"classify\"\nclasses = 10\nmodalities = {{ {} }}\n\
         [cohort]\nmembers = 30\nsize = 9\n",
        widths.join(", ")
    );
    let mut table = Preset::find(preset).unwrap().table();
    merge(&mut table, &toml::from_str(&text).unwrap());
    RunSpec::from_table(&table).unwrap()
}

fn subsets(modalities: &[&str]) -> Vec<String> {
    (1..1u32 << modalities.len())
        .map(|bits| {
            let names: Vec<&str> = modalities.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, m)| *m).collect();
            names.join("+")
        })
        .collect()
}

/// Right answers of 500: more with every round and modality, different for each method and answer.
fn right(method: usize, round: u32, subset: &str, answer: usize) -> f64 {
    let present = subset.split('+').count() as f64;
    let letter: u32 = subset.bytes().map(u32::from).sum();
    let level = 0.42 + 0.13 * present.sqrt() + 0.06 * method as f64 + 0.012 * answer as f64 + f64::from(letter % 7) * 0.006;
    (500.0 * level * (1.0 - 0.6 * (-f64::from(round) / 9.0).exp())).round().min(500.0)
}

fn evaluation(method: usize, round: u32, modalities: &[&str], answers: &[&str]) -> Evaluation {
    let mut metrics = Metrics::default();
    for subset in subsets(modalities) {
        for (i, answer) in answers.iter().enumerate() {
            metrics.add(format!("test/{answer}/{subset}"), right(method, round, &subset, i), 500.0);
            metrics.add(format!("held-out/{answer}/{subset}"), (right(method, round, &subset, i) / 5.0).floor(), 100.0);
        }
    }
    metrics.add("test/loss", 500.0 * 0.7 / f64::from(round), 500.0);
    Evaluation { round, metrics }
}

fn method(number: usize, preset: &str, modalities: &[&str], answers: &[&str]) -> Method {
    let loss = |round: u32| (0.3 + number as f64 * 0.8) + 2.1 * (-f64::from(round) / 8.0).exp() + 0.02 * f64::from(round * 7 % 5);
    Method {
        name: preset.to_owned(),
        run: format!("{preset}-1"),
        spec: spec(preset, modalities),
        rounds: (1..=40).map(|round| RoundRecord { round, members: 9, loss: Some(loss(round)) }).collect(),
        evaluations: [1, 10, 20, 30, 40].map(|round| evaluation(number, round, modalities, answers)).into(),
        faults: Vec::new(),
        global: Some(Digest::of(preset.as_bytes())),
        statistics: (number > 0).then(|| Digest::of(format!("{preset} statistics").as_bytes())),
        bytes_up: 41_234_567 + 1_000_000 * number as u64,
        bytes_down: 52_345_678,
        finished: true,
        reason: None,
    }
}

fn outcome(modalities: &[&str]) -> Outcome {
    let all = ["head", "near", "near*", "ncm", "ncm*", "whitened"];
    Outcome {
        name: "digits".to_owned(),
        seed: 7,
        partition: "30 members, 3 / 41 / 120 rows to train (smallest / median / largest)\n4 members are complete".to_owned(),
        methods: vec![
            method(0, "fedavg-zero", modalities, &["head", "whitened"]),
            method(1, "pmcmfl", modalities, &all),
            method(2, "tessera", modalities, &all),
        ],
        restarts: 0,
        command: "tessera simulate --seed 7 --set 'rounds=40'".to_owned(),
    }
}

fn two() -> Outcome {
    outcome(&["left", "right"])
}

fn six() -> Outcome {
    outcome(&["audio", "depth", "image", "imu", "lidar", "text"])
}

/// What must hold for every page.
fn check(page: &str) {
    assert!(page.len() < LIMIT, "{} bytes", page.len());
    let lower = page.to_lowercase();
    for forbidden in [
        "<script", "<img", "<iframe", "<object", "<link", "<base", "<form", "href", "src=", "style=", "url(", "@import", "http:",
        "https:",
    ] {
        assert!(!lower.contains(forbidden), "{forbidden}");
    }
    for attribute in [" onload", " onerror", " onclick", "javascript:"] {
        assert!(!lower.contains(attribute), "{attribute}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains("inf,"), "not a number in a chart");
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    well_formed(page);
}

/// Every element that is opened is closed in the right order.
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        match tag {
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "</{name}> in {open:?}"),
            _ if tag.starts_with('!') || tag.ends_with('/') || matches!(name, "meta" | "wbr") => {}
            _ => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

/// Cells of the table with this caption, row by row, without tags.
fn table(page: &str, about: &str) -> Vec<Vec<String>> {
    let start = page.find(&format!("<caption>{about}</caption>")).unwrap_or_else(|| panic!("no table about {about}"));
    let body = page[start..].split("</table>").next().unwrap();
    let text = |html: &str| {
        let parts = html.split('<').enumerate().map(|(i, s)| if i == 0 { s } else { s.split_once('>').unwrap().1 });
        parts.collect::<String>().trim_end().to_owned()
    };
    let cell = |html: &str| text(html.split_once('>').unwrap().1);
    body.split("<tr")
        .skip(1)
        .map(|row| row.replace("<td", "<th").split("<th").skip(1).filter(|c| !c.starts_with("ead")).map(cell).collect())
        .collect()
}

#[test]
fn the_page_stands_alone_and_has_all_sections_in_order() {
    let page = html(&two());
    check(&page);
    let headings = [
        "Accuracy by the modalities that are present",
        "Accuracy over the rounds",
        "Training loss",
        "All answers",
        "How the data was cut",
        "Traffic",
        "Faults",
        "Specs",
        "Digests",
        "Make it again",
    ];
    let places: Vec<usize> = headings.map(|h| page.find(&format!("<h2>{h}</h2>")).unwrap_or_else(|| panic!("no {h}"))).into();
    assert!(places.is_sorted());
    assert!(page.trim_end().ends_with("</code></pre>\n</section>\n</main>\n</body>\n</html>"));
    assert_eq!(page, html(&two()), "equal outcomes give equal pages");
}

#[test]
fn the_finding_is_computed_from_the_data() {
    let outcome = two();
    let share =
        |method: usize, subset: &str| outcome.methods[method].last().map(|e| outcome.methods[method].subsets(e)[subset]).unwrap();
    let mean = |method: usize| 100.0 * (share(method, "left") + share(method, "right")) / 2.0;
    let (ours, first) = (format!("{:.1}", mean(2)), format!("{:.1}", mean(0)));
    let lead = ours.parse::<f64>().unwrap() - first.parse::<f64>().unwrap();
    let expected = format!(
        "On single modalities (mean of left and right), tessera answers {ours}\u{a0}% right, {lead:.1} points above fedavg-zero \
         ({first}\u{a0}%); with all modalities {:.1}\u{a0}% against {:.1}\u{a0}%.",
        100.0 * share(2, "left+right"),
        100.0 * share(0, "left+right")
    );
    assert!(html(&outcome).contains(&format!("<p class=\"finding\">{expected}</p>")), "{expected}");
}

#[test]
fn the_first_method_is_compared_with_the_next_where_it_is_best() {
    let mut outcome = two();
    outcome.methods.reverse();
    assert!(html(&outcome).contains(", tessera answers "));
    assert!(html(&outcome).contains(" points above pmcmfl ("));
    outcome.methods.truncate(1);
    let page = html(&outcome);
    check(&page);
    assert!(page.contains("with all modalities") && !page.contains("points above"));
    assert!(!page.contains("class=\"best\">best"), "there is nothing to compare with");
}

#[test]
fn the_accuracies_in_the_table_are_those_of_the_own_answers() {
    let outcome = two();
    let rows = table(&html(&outcome), "Accuracy in percent by method and subset of modalities");
    assert_eq!(rows[0], ["method", "own answer", "left", "right", "left+right"]);
    for (row, (i, method)) in rows[1..].iter().zip(outcome.methods.iter().enumerate()) {
        let answer = [0, 1, 5][i];
        let mark = if i == 2 { " best" } else { "" };
        let mut expected = vec![method.name.clone(), method.answer().to_owned()];
        // the whitened answer is the second of the first method's two, but it answers with the head
        for subset in ["left", "right", "left+right"] {
            expected.push(format!("{:.1}{mark}", 100.0 * right(i, 40, subset, answer) / 500.0));
        }
        assert_eq!(*row, expected);
    }
}

#[test]
fn the_numbers_behind_the_charts_are_the_data() {
    let outcome = two();
    let page = html(&outcome);
    let rows = table(&page, "Accuracy in percent on right by round and method");
    assert_eq!(rows[0], ["round", "fedavg-zero", "pmcmfl", "tessera"]);
    for (row, round) in rows[1..].iter().zip([1, 10, 20, 30, 40]) {
        let expected =
            [0, 1, 5].into_iter().enumerate().map(|(i, answer)| format!("{:.1}", right(i, round, "right", answer) / 5.0));
        assert_eq!(*row, std::iter::once(round.to_string()).chain(expected).collect::<Vec<_>>());
    }
    let rows = table(&page, "Training loss by round and method");
    assert_eq!(rows.len(), 41);
    for (i, row) in rows[1..].iter().enumerate() {
        let losses = outcome.methods.iter().map(|m| format!("{:.4}", m.rounds[i].loss.unwrap()));
        assert_eq!(*row, std::iter::once((i + 1).to_string()).chain(losses).collect::<Vec<_>>());
    }
    let answers = ["head", "near", "near*", "ncm", "ncm*", "whitened"];
    let behind_bars = table(&page, "Accuracy in percent of all answers of pmcmfl by subset");
    let folded = table(&page, "Accuracy in percent of the answers of pmcmfl on the test samples after round 40");
    for (i, answer) in answers.iter().enumerate() {
        let numbers = ["left", "right", "left+right"].map(|s| format!("{:.1}", right(1, 40, s, i) / 5.0));
        assert_eq!(behind_bars[i + 1], [&[(*answer).to_owned()], &numbers[..]].concat());
        let own = if *answer == "near" { " (its own)" } else { "" };
        assert_eq!(folded[i + 1], [&[format!("{answer}{own}")], &numbers[..]].concat());
    }
    let held_out =
        table(&page, "Accuracy in percent of the answers of pmcmfl on the members&#39; held-out samples after round 40");
    assert_eq!(held_out[1][1], format!("{:.1}", (right(1, 40, "left", 0) / 5.0).floor()));
}

#[test]
fn charts_have_a_mark_per_evaluation_and_a_bar_per_answer() {
    let page = html(&two());
    let figure = |id: &str| {
        page.split("<figure>").find(|f| f.contains(&format!("id=\"{id}\""))).unwrap().split("</figure>").next().unwrap()
    };
    let accuracy = figure("accuracy-0");
    for (number, mark) in [(0, "<circle"), (1, "<rect"), (2, "<path d")] {
        let coloured =
            |element: &&str| element.starts_with(&mark[1..]) && element.contains(&format!("fill=\"var(--s{number})\""));
        assert_eq!(accuracy.split('<').filter(coloured).count(), 5, "{mark} in {accuracy}");
    }
    assert_eq!(figure("answers-1").matches("<rect").count(), 18);
    // an answer that was not measured has a dash in the place of its bar, not a bar of height 0
    let sparse = figure("answers-0");
    assert_eq!(sparse.matches(">–</text>").count(), 4 * 3);
    for id in ["accuracy-0", "accuracy-2", "loss", "answers-2"] {
        assert!(
            figure(id).starts_with(&format!("<div role=\"img\" aria-labelledby=\"{id}\"><svg"))
                && figure(id).contains("<figcaption"),
            "{id}"
        );
        assert!(!figure(id).contains("<details"), "what is in an image cannot be opened");
    }
}

#[test]
fn no_two_methods_look_alike() {
    let samples: BTreeSet<String> = (0..28).map(|i| super::chart::line_sample(i, false)).collect();
    assert_eq!(samples.len(), 28);
}

#[test]
fn axes_are_round_numbers_around_the_data() {
    use super::chart::around;
    assert_eq!(around([54.6, 80.2]), (50.0, 90.0));
    assert_eq!(around([0.0, 3.79]), (0.0, 4.0));
    assert_eq!(around([0.0, 0.0]), (0.0, 1.0));
    assert_eq!(around([]), (0.0, 1.0));
    let (low, high) = around([100.0]);
    assert!(low <= 100.0 && high >= 100.0 && low < high);
}

#[test]
fn many_subsets_become_rows() {
    let outcome = six();
    let page = html(&outcome);
    check(&page);
    let rows = table(&page, "Accuracy in percent by subset of modalities and method");
    assert_eq!(rows.len(), 64);
    assert_eq!(rows[1][0], "audio");
    assert_eq!(rows[63][0], "audio+depth+image+imu+lidar+text");
    assert_eq!(rows[63][2], format!("{:.1}", right(1, 40, &rows[63][0], 1) / 5.0));
    let short = table(&page, "Accuracy in percent by subset of modalities, in short, and method");
    let names: Vec<&str> = short.iter().map(|r| r[0].as_str()).collect();
    assert!(names.contains(&"mean of 20 subsets of 3") && names.contains(&"text") && names.len() == 2 + 6 + 5 + 1, "{names:?}");
    let pairs: Vec<f64> = subsets(&["audio", "depth", "image", "imu", "lidar", "text"])
        .iter()
        .filter(|s| s.matches('+').count() == 1)
        .map(|s| right(0, 40, s, 0) / 5.0)
        .collect();
    let row = short.iter().find(|r| r[0] == "mean of 15 subsets of 2").unwrap();
    assert_eq!(row[1], format!("{:.1}", pairs.iter().sum::<f64>() / 15.0));
    assert_eq!(page.matches("id=\"accuracy-").count(), 7, "six modalities and the complete set");
    assert_eq!(page.matches("id=\"answers-").count(), 0, "bars are for few subsets");
    assert_eq!(table(&page, "Accuracy in percent of the answers of tessera on the test samples after round 40").len(), 64);
}

#[test]
fn what_was_not_measured_is_a_dash() {
    let mut outcome = two();
    let silent = &mut outcome.methods[1];
    silent.evaluations.clear();
    silent.rounds.truncate(24);
    silent.rounds.iter_mut().for_each(|r| r.loss = None);
    silent.finished = false;
    silent.global = None;
    let page = html(&outcome);
    check(&page);
    let rows = table(&page, "Accuracy in percent by method and subset of modalities");
    assert_eq!(rows[2], ["pmcmfl", "near", "not evaluated", "–", "–", "–"]);
    assert_eq!(rows[1][..3], ["fedavg-zero", "head", "round 40"]);
    assert!(page.contains("pmcmfl did not finish: 24 of 40 rounds are done."));
    assert!(page.contains("pmcmfl was not evaluated."));
    assert_eq!(table(&page, "Training loss by round and method")[1][2], "–");
    assert_eq!(table(&page, "Digests by method")[3], ["pmcmfl", "pmcmfl-1", "global model", "–"]);
    assert!(!page.contains("id=\"answers-1\""));
}

#[test]
fn nothing_at_all_is_said_in_words() {
    let mut outcome = two();
    for method in &mut outcome.methods {
        method.evaluations.clear();
        method.rounds.clear();
    }
    let page = html(&outcome);
    check(&page);
    for words in [
        "No method was tested on single modalities.",
        "No accuracy was measured on the test split.",
        "No training loss was reported.",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(table(&page, &traffic()).len(), 4);
    assert_eq!(table(&page, &traffic())[1][4], "–", "no round, no bytes per round");
    outcome.methods.clear();
    check(&html(&outcome));
}

fn traffic() -> String {
    "Bytes that the coordinator took in (up) and gave out (down) by method".to_owned()
}

#[test]
fn text_from_outside_stays_text() {
    let mut outcome = two();
    let hostile = "<script>alert('1')</script>\"&";
    let harmless = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;";
    outcome.name = hostile.to_owned();
    outcome.partition = hostile.to_owned();
    outcome.command = hostile.to_owned();
    outcome.methods[0].name = hostile.to_owned();
    outcome.methods[0].run = hostile.to_owned();
    outcome.methods[2].faults.push((hostile.to_owned(), "rejected".to_owned(), hostile.to_owned()));
    let evaluation = &mut outcome.methods[1].evaluations[4];
    evaluation.metrics.0.insert(format!("test/{hostile}/{hostile}"), Metric { sum: 1.0, count: 2.0 });
    let page = html(&outcome);
    check(&page);
    assert!(page.matches(harmless).count() >= 8);
    let faults = table(&page, "Assignments that did not end well");
    assert_eq!(faults[1], ["tessera", harmless, "rejected", "1", harmless]);
}

#[test]
fn equal_faults_are_counted_and_too_many_are_said_to_be_more() {
    let mut outcome = two();
    assert!(html(&outcome).contains("Every assignment ended well. No process had to be started again."));
    let fault = |n: usize| (format!("member-{n:03}"), "expired".to_owned(), "no answer within 10m".to_owned());
    outcome.methods[1].faults = (0..250).chain([3, 3]).map(fault).collect();
    outcome.restarts = 2;
    let page = html(&outcome);
    check(&page);
    assert!(page.contains("252 assignments did not end well. Processes died and were started again 2 times."));
    assert!(page.contains("The first 200 of 250 different ones are listed."));
    let rows = table(&page, "Assignments that did not end well");
    assert_eq!(rows.len(), 201);
    assert_eq!(rows[4], ["pmcmfl", "member-003", "expired", "3", "no answer within 10m"]);
}

#[test]
fn a_long_run_is_thinned_and_says_so() {
    let mut outcome = two();
    for method in &mut outcome.methods {
        method.rounds = (1..=10_001).map(|round| RoundRecord { round, members: 9, loss: Some(1.0 / f64::from(round)) }).collect();
    }
    let page = html(&outcome);
    check(&page);
    let rows = table(&page, "Training loss by round and method");
    assert!(rows.len() <= 401 && rows.len() > 300, "{}", rows.len());
    assert_eq!(rows.last().unwrap()[0], "10001");
    assert!(page.contains("At most 400 evenly spaced rounds are drawn and listed"));
    assert!(!html(&two()).contains("evenly spaced"));
}

#[test]
fn a_page_stays_small_with_a_thousand_subsets() {
    let modalities: Vec<String> = (0..10).map(|i| format!("modality-{i}")).collect();
    let names: Vec<&str> = modalities.iter().map(String::as_str).collect();
    let mut outcome = outcome(&names);
    let reason = "é".repeat(10_000);
    outcome.methods[0].faults = (0..300).map(|i| (format!("member-{i}"), "rejected".to_owned(), reason.clone())).collect();
    let page = html(&outcome);
    check(&page);
    assert!(page.contains("All answers of tessera: too many numbers for this page; metrics.jsonl beside it has them."));
    assert_eq!(table(&page, "Accuracy in percent by subset of modalities and method").len(), 1024);
}

#[test]
fn an_answer_chosen_per_subset_is_shown_and_explained() {
    let mut outcome = two();
    outcome.methods[2].spec.missing.inference = tessera_common::spec::Inference::Auto;
    let page = html(&outcome);
    check(&page);
    assert!(page.contains("<dt>auto</dt>") && !html(&two()).contains("<dt>auto</dt>"));
    let folded = table(&page, "Accuracy in percent of the answers of tessera on the test samples after round 40");
    assert_eq!(folded[7][0], "auto (its own)");
    assert_eq!(folded[7][1..], folded[6][1..], "whitened is the best on held-out data");
}

#[test]
fn traffic_and_digests_are_shown_in_full() {
    let outcome = two();
    let page = html(&outcome);
    let rows = table(&page, &traffic());
    assert_eq!(rows[1][..3], ["fedavg-zero", "40", &super::super::watch::size(41_234_567)]);
    assert_eq!(rows[1][4], super::super::watch::size(41_234_567 / 40));
    for method in &outcome.methods {
        assert!(page.contains(&method.global.unwrap().to_string()));
        assert!(page.contains(&super::markup::escape(method.spec.to_toml().trim_end())));
    }
    assert!(page.contains(&outcome.methods[2].statistics.unwrap().to_string()));
    assert!(page.contains("tessera simulate --seed 7 --set &#39;rounds=40&#39;"));
    assert!(page.contains("counted on 500 test samples"));
}
