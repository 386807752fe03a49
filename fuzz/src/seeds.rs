//! Inputs to start from: sound ones, and known nasty ones. `UPDATE=1 cargo test --test corpus` writes them to
//! `corpus/NAME/`; what the fuzzer found lies there too.

use crate::decoders::base64;
use prost::Message;
use tessera_common::access::Token;
use tessera_common::audit::{self, Head};
use tessera_common::id::Digest;
use tessera_common::param::{ParamSet, Tensor};
use tessera_proto::v1;

/// Largest seed that is kept as a file; larger ones are made anew each time.
pub const KEPT: usize = 16 << 10;

/// A decoder's name, the seed's name and the seed.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// All seeds.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    params(&mut seeds);
    specs(&mut seeds);
    texts(&mut seeds);
    access(&mut seeds);
    wire(&mut seeds);
    journals(&mut seeds);
    arrays(&mut seeds);
    tables(&mut seeds);
    manifests(&mut seeds);
    seeds
}

type Named<'a> = (&'static str, &'a str);

fn add(seeds: &mut Vec<Seed>, decoder: &'static str, named: &[Named<'_>]) {
    seeds.extend(named.iter().map(|(name, text)| (decoder, *name, text.as_bytes().to_vec())));
}

fn with_header(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

fn params(seeds: &mut Vec<Seed>) {
    let mut set = ParamSet::new();
    set.insert("param/encoder.left/weight", Tensor::f32(&[2, 3], &[1.0, -0.0, f32::NAN, f32::INFINITY, 1e-45, 2.0]));
    set.insert("proto/left/count", Tensor::f64(&[2], &[f64::NAN, -1.0]));
    set.insert("width/left", Tensor::f32(&[7, 0], &[]));
    seeds.push(("params", "sound", set.to_bytes()));
    seeds.push(("params", "empty-set", ParamSet::new().to_bytes()));
    seeds.push(("params", "cut-off", set.to_bytes()[..40].to_vec()));
    seeds.push(("params", "header-of-2-to-64", vec![0xff; 16]));
    seeds.push(("params", "header-of-1-gib", [&(1u64 << 30).to_le_bytes()[..], b"{}"].concat()));
    seeds.push(("params_header", "sound", set.layout().header()[8..].to_vec()));
    let header = [
        (
            "overlap",
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        ),
        (
            "gap",
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
        ),
        ("backwards", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#),
        ("overflow", r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#),
        ("overflow-hidden", r#"{"a":{"dtype":"F64","shape":[9223372036854775807,0,9223372036854775807],"data_offsets":[0,0]}}"#),
        ("overflow-offset", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551615,3]}}"#),
        (
            "twice",
            r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#,
        ),
        (
            "unsorted",
            r#"{"b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#,
        ),
        ("metadata", r#"{"__metadata__":{"a":"b"},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#),
        ("negative", r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}"#),
        ("float", r#"{"a":{"dtype":"F32","shape":[1e308],"data_offsets":[0,1e308]}}"#),
        ("other-dtype", r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#),
        ("escapes", r#"{"\u0061\ud83d\ude00\"":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}   "#),
    ];
    add(seeds, "params_header", &header);
    seeds.extend(header.iter().map(|(name, json)| ("params", *name, with_header(json, &[0; 16]))));
    let many: Vec<String> =
        (0..20_000).map(|i| format!(r#""{i:06}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let dims = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(500_000));
    add(seeds, "params_header", &[("many", &format!("{{{}}}", many.join(","))), ("deep", &deep), ("dimensions", &dims)]);
}

/// A run's spec.
pub const SPEC: &str = r#"version = 1
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
absence = "500ms"
late = "next-round"
[keep]
globals = 2
best = "test/head/left"
[model]
width = 16
"#;

fn specs(seeds: &mut Vec<Seed>) {
    let with = |line: &str| format!("{SPEC}{line}\n");
    add(
        seeds,
        "spec",
        &[
            ("sound", SPEC),
            ("deep-lists", &with(&format!("a = {}1{}", "[".repeat(79), "]".repeat(79)))),
            ("deep-keys", &with(&format!("{}a = 1", "a.".repeat(79)))),
            ("deep-keys-and-lists", &with(&format!("{}a = {}1{}", "a.".repeat(70), "[".repeat(70), "]".repeat(70)))),
            ("too-deep", &with(&format!("a = {}", "[".repeat(4000)))),
            ("too-deep-tables", &with(&format!("a = {}", "{a=".repeat(2000)))),
            ("deep-header", &with(&format!("[model{}]\na = 1", ".a".repeat(78)))),
            ("not-a-number", &SPEC.replace("rounds = 3", "rounds = nan")),
            ("largest", &SPEC.replace("rounds = 3", "rounds = 9223372036854775807")),
            ("too-large", &SPEC.replace("classes = 10", "classes = 99999999999999999999999")),
            ("exponent", &with("[train]\nlr = 1e308\nproximal = 1e-308")),
            ("dates", &with("d = 9999-12-31T23:59:60Z\nt = 00:00:00.999999999999")),
            ("duration", &SPEC.replace("1m 30s", "9223372036854775807s")),
            ("backticks", &with("[train]\n\"`a`, `b`\" = 1")),
            ("unknown-kind", &with("[strategy]\nkind = \"fedawg\"")),
            ("escapes", &SPEC.replace("\"t\"", "\"\\U0010FFFF\\u0000\"")),
            ("many-keys", &format!("{SPEC}{}", (0..40_000).map(|i| format!("k{i} = 1\n")).collect::<String>())),
            ("million", &with(&format!("# {}", "x".repeat(1 << 20)))),
            ("long-key", &format!("{} = 1\n{SPEC}", "k".repeat(500_000))),
            ("long-line", &with(&format!("a = \"{}", "\\u0041".repeat(100_000)))),
            ("quotes", &"\"".repeat(524_000)),
            ("dots", &format!("{}a = 1", "a.".repeat(262_000))),
            ("brackets", &"[".repeat(524_000)),
        ],
    );
}

fn texts(seeds: &mut Vec<Seed>) {
    let digest = Digest::of(b"x").to_string();
    add(
        seeds,
        "text",
        &[
            ("name", "client-07"),
            ("digest", &digest),
            ("digest-signs", &format!("+1{}", &digest[2..])),
            ("digest-wide", &"é".repeat(32)),
            ("duration", "1h 30m 5s 500ms"),
            ("duration-iso", "PT9223372036854775807S"),
            ("duration-long", "9223372036854775807s 999999999ns"),
            ("duration-negative", "-1ns"),
            ("key", "cohort.size=9"),
            ("key-list", "a.b.c=[1, {d = 1e999}]"),
            ("key-dots", &format!("{}=1", "a.".repeat(3000))),
            ("key-deep", &format!("{}a=1", "a.".repeat(200_000))),
            ("key-empty", "..=\n[x]"),
        ],
    );
    add(
        seeds,
        "size",
        &[
            ("sound", "512 MiB"),
            ("overflow", "18446744073709551615TiB"),
            ("digits", "99999999999999999999B"),
            ("wide", "１GiB"),
            ("bare", "4"),
        ],
    );
}

fn access(seeds: &mut Vec<Seed>) {
    let token = |name: &str, address: &str| {
        let name = name.parse().unwrap_or_else(|e| panic!("{e}"));
        Token { name, address: address.into(), authority: [7; 32], secret: [9; 32], expires: u64::MAX }.reveal()
    };
    let sound = token("north", "coordinator.example.org:7443");
    let secret = base64(&[9; 32]);
    let body = |name: &str, s: &str| format!(r#"{{"n":"{name}","a":"[::1]:1","c":"{s}","s":"{s}","e":1}}"#);
    add(
        seeds,
        "token",
        &[("sound", &sound), ("cut-off", &sound[..60]), ("spaces", &format!(" \t{sound}\r\n")), ("bare", "tessera1.")],
    );
    add(seeds, "token", &[("long", &format!("tessera1.{}", "A".repeat(1 << 20))), ("wide", "tessera1.é")]);
    add(
        seeds,
        "token_body",
        &[
            ("sound", &body("north", &secret)),
            ("name", &body("../north", &secret)),
            ("short-secret", &body("north", "AAAA")),
            ("padded", &body("north", &format!("{secret}="))),
            ("deep", &"[".repeat(500)),
        ],
    );
    let mut head = Head::default();
    let lines: Vec<String> = (0..3)
        .map(|i| {
            let entry = audit::Entry {
                time_ms: i,
                who: "site".into(),
                what: "answer".into(),
                verdict: "ok".into(),
                ..Default::default()
            };
            let (line, next) = head.append(entry);
            head = next;
            line
        })
        .collect();
    let sound = lines.join("\n");
    add(
        seeds,
        "audit",
        &[
            ("sound", &sound),
            ("taken-out", &lines[1]),
            ("changed", &sound.replace("site", "sire")),
            ("long", &"x".repeat(100_000)),
            ("feeds", &"\n".repeat(5000)),
        ],
    );
    add(
        seeds,
        "audit_entry",
        &[
            ("sound", r#"{"time_ms":1,"who":"a","what":"enrol","run":"r","round":3,"member":"m","verdict":"ok"}"#),
            ("controls", &"\u{1}\"\\\n".repeat(3000)),
            ("separators", "\u{2028}\u{2029}\u{feff}"),
            ("million", &"\u{1}".repeat(1 << 20)),
        ],
    );
}

fn wire(seeds: &mut Vec<Seed>) {
    let text = |n: usize| "é".repeat(n);
    let member = v1::Member { name: "north".into(), trains: true, evaluates: false, modalities: vec!["left".into()] };
    let hello = |members| v1::agent_message::Message::Hello(v1::Hello { agent: "a".into(), version: "0.2.0".into(), members });
    let answer = v1::Answer {
        run: "r".into(),
        member: "north".into(),
        assignment: 7,
        blob: vec![5; 32].into(),
        blob_bytes: u64::MAX,
        examples: 4,
        weights: [("encoder.left".to_owned(), u32::MAX)].into(),
        metrics: [("fit/loss".to_owned(), v1::Metric { sum: 1.5, count: 4.0 })].into(),
    };
    let infinite = [("x".to_owned(), v1::Metric { sum: f64::NAN, count: -1.0 })].into();
    let agent = |message| v1::AgentMessage { message: Some(message), sequence: 1 }.encode_to_vec();
    use v1::agent_message::Message as Said;
    let mut push = |decoder, name, bytes| seeds.push((decoder, name, bytes));
    push("wire_agent", "hello", agent(hello(vec![member.clone(); 3])));
    push("wire_agent", "hello-name", agent(hello(vec![v1::Member { name: text(1000), ..member.clone() }])));
    push("wire_agent", "hello-many", agent(hello(vec![v1::Member::default(); 100_000])));
    push("wire_agent", "hello-modalities", agent(hello(vec![v1::Member { modalities: vec![text(999); 65], ..member }])));
    push("wire_agent", "answer", agent(Said::Answer(answer.clone())));
    push("wire_agent", "answer-not-finite", agent(Said::Answer(v1::Answer { metrics: infinite, ..answer.clone() })));
    push(
        "wire_agent",
        "answer-weights",
        agent(Said::Answer(v1::Answer { weights: (0..70_000).map(|i| (i.to_string(), 1)).collect(), ..answer })),
    );
    let failure = v1::Failure { run: text(50), member: "m".into(), assignment: 1, reason: text(3000) };
    push("wire_agent", "failure", agent(Said::Failure(failure)));
    push("wire_agent", "varint", vec![0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    push("wire_agent", "length", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    push("wire_agent", "groups", vec![0x0b; 4096]);
    use v1::coordinator_message::Message as Told;
    let coordinator = |message| v1::CoordinatorMessage { message: Some(message), sequence: u64::MAX }.encode_to_vec();
    let assignment = v1::Assignment {
        run: "r".into(),
        member: "m".into(),
        id: 1,
        work: 3,
        round: 2,
        global: vec![1; 32].into(),
        statistics: vec![].into(),
    };
    push("wire_coordinator", "assignment", coordinator(Told::Assignment(assignment.clone())));
    push("wire_coordinator", "unknown-work", coordinator(Told::Assignment(v1::Assignment { work: -1, ..assignment })));
    push(
        "wire_coordinator",
        "run-opened",
        coordinator(Told::RunOpened(v1::RunOpened { run: "r".into(), spec_toml: SPEC.into() })),
    );
    let welcome = v1::Welcome { version: "9".into(), heartbeat_ms: u32::MAX, time_ms: u64::MAX };
    push("wire_coordinator", "welcome", coordinator(Told::Welcome(welcome)));
    use v1::upload_request::Part;
    let header = v1::UploadHeader { digest: vec![3; 32].into(), bytes: u64::MAX, offset: u64::MAX };
    push("wire_upload", "header", v1::UploadRequest { part: Some(Part::Header(header)) }.encode_to_vec());
    push("wire_upload", "chunk", v1::UploadRequest { part: Some(Part::Chunk(vec![0; 300].into())) }.encode_to_vec());
    let enrol = v1::EnrolRequest {
        version: "0.2.0".into(),
        secret: vec![9; 32].into(),
        signing_request: vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff].into(),
    };
    push("wire_enrol", "enrol", enrol.encode_to_vec());
    push("wire_admin", "submit", v1::SubmitRunRequest { spec_toml: SPEC.into(), ..Default::default() }.encode_to_vec());
}

fn journals(seeds: &mut Vec<Seed>) {
    let joined = |name: &str| {
        format!(
            r#"{{"at":1000,"event":{{"Joined":{{"member":"{name}","info":{{"trains":true,"evaluates":true,"modalities":["a"]}}}}}}}}"#
        )
    };
    let answered = |member: &str, n: u64, blob: bool, weights: &str| {
        let blob = if blob { format!("\"{}\"", Digest::of(b"g")) } else { "null".into() };
        format!(
            r#"{{"at":{at},"event":{{"Answered":{{"member":"{member}","assignment":{n},"blob":{blob},"bytes":8,"examples":4,"weights":{{{weights}}},"metrics":{{}}}}}}}}"#,
            at = 1000 + n
        )
    };
    let folded = |n: u64| format!(r#"{{"at":2000,"event":{{"Folded":{{"fold":{n},"digest":"{}"}}}}}}"#, Digest::of(b"f"));
    let mut run = vec![joined("m1"), joined("m2")];
    for n in 1..=12 {
        run.extend(["m1", "m2"].map(|member| answered(member, n, true, r#""fusion":4"#)));
        run.push(folded(n));
    }
    let run = run.join("\n");
    let edge = [
        (u64::MAX, "\"Ticked\""),
        (0, "\"Ticked\""),
        (u64::MAX, "\"Restarted\""),
        (1, "\"StopAsked\""),
        (1, "\"ResumeAsked\""),
        (9, r#"{"PauseAsked":{"reason":"x"}}"#),
        (2, r#"{"FoldFailed":{"fold":18446744073709551615,"reason":"x"}}"#),
        (3, r#"{"Left":{"member":"nobody"}}"#),
        (4, r#"{"Failed":{"member":"m1","assignment":1,"reason":""}}"#),
    ];
    let edge: Vec<String> = edge.iter().map(|(at, event)| format!(r#"{{"at":{at},"event":{event}}}"#)).collect();
    let edge = format!("{}\n{}\n{}\n{}", joined("m1"), joined("m2"), edge.join("\n"), joined("m1"));
    let forked = format!(r#"{{"at":1,"event":{{"Forked":{{"from":"x","round":4294967295,"global":"{}"}}}}}}"#, Digest::of(b"g"));
    for decoder in ["engine", "journal_records"] {
        add(seeds, decoder, &[("run", &run), ("edge", &edge), ("forked", &format!("{forked}\n{edge}")), ("none", "")]);
    }
    let record = |payload: &[u8], len: u32| [&len.to_le_bytes()[..], &[0; 36], payload].concat();
    seeds.push(("journal", "wrong-checksum", record(b"{\"at\":1}", 8)));
    seeds.push(("journal", "length", record(b"", u32::MAX)));
    seeds.push(("journal", "zeros", vec![0; 4096]));
    // at each byte of it, a record of half the file could begin
    seeds.push(("journal", "lengths", [0x00, 0x00, 0x08, 0x00].repeat(256 << 10)));
    let d = Digest::of(b"g");
    let snapshot = format!(
        r#"{{"mark":{{"records":1,"chain":"{d}"}},"state":{{"phase":{{"Paused":{{"reason":"x","cause":"fold","then":"Waiting"}}}},"members":{{}},"global":{{"round":1,"digest":"{d}"}},"inputs":null,"statistics":null,"tally":{{"given":1,"accepted":0,"rejected":0,"dropped":0,"expired":0}},"late":{{"open":{{}},"answers":[]}},"next_assignment":1,"next_fold":18446744073709551615}},"given":[],"history":0,"bytes_up":0,"bytes_down":0,"kept":{{}}}}"#
    );
    let deep = format!(r#"{{"state":{{"phase":{}"#, r#"{"Paused":{"reason":"","then":"#.repeat(10_000));
    add(seeds, "snapshot", &[("paused", &snapshot), ("deep", &deep)]);
}

fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let length =
        if version == 1 { (header.len() as u16).to_le_bytes().to_vec() } else { (header.len() as u32).to_le_bytes().to_vec() };
    [b"\x93NUMPY", &[version, 0][..], &length, header.as_bytes(), data].concat()
}

fn arrays(seeds: &mut Vec<Seed>) {
    let head = |descr: &str, shape: &str| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let mut push = |name, bytes| seeds.push(("npy", name, bytes));
    push("bytes", npy(1, &head("|u1", "3,"), &[0, 1, 2]));
    push("matrix", npy(2, &head("<f4", "3, 2"), &[0; 24]));
    push("cube", npy(3, &head(">f8", "3, 1, 2"), &[0x40; 48]));
    push("half", npy(1, &head("<f2", "3, 1"), &[0x00, 0x7c, 0xff, 0xff, 0x01, 0x00]));
    push("not-finite", npy(1, &head("<f4", "3,"), &[0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff, 0, 0, 0, 0]));
    push("exponent", npy(1, &head("<f4", "1e308, 2"), &[0; 24]));
    push("overflow", npy(1, &head("<f8", "4294967296, 4294967296"), &[0; 8]));
    push("overflow-hidden", npy(1, &head("<f8", "9223372036854775807, 0, 9223372036854775807"), &[]));
    push("rows-of-nothing", npy(1, &head("<f4", "18446744073709551615, 0"), &[]));
    push("too-many-digits", npy(1, &head("<f4", "99999999999999999999999"), &[]));
    push("scalar", npy(1, &head("<f4", ""), &[0; 4]));
    push("objects", npy(1, &head("|O", "3,"), b"cos\nsystem\n"));
    push("structured", npy(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }\n", &[0; 12]));
    push("fortran", npy(1, &head("<f4", "3, 2").replace("False", "True"), &[0; 24]));
    push("axes", npy(2, &head("|u1", &"1,".repeat(3000)), &[0]));
    push("header-of-4-gib", [&b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..], b"{'descr'"].concat());
    push("cut-off", b"\x93NUMPY\x01\x00\x10".to_vec());
    push("not-text", npy(1, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", &[0xff; 3])[..20].to_vec());
    push("wide", npy(1, &head("é4", "3,"), &[0; 12]));
    push("axes-many", npy(2, &head("|u1", &"1,".repeat(1 << 20)), &[0]));
    let tensors = [
        (
            "sound",
            r#"{"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"y":{"dtype":"U8","shape":[3],"data_offsets":[24,27]}}"#,
            27,
        ),
        ("one", r#"{"a":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}"#, 12),
        (
            "overlap",
            r#"{"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"y":{"dtype":"U8","shape":[3],"data_offsets":[21,24]}}"#,
            24,
        ),
        (
            "gap",
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"y":{"dtype":"U8","shape":[3],"data_offsets":[20,23]}}"#,
            23,
        ),
        ("overflow", r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
        ("beyond", r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[18446744073709551612,18446744073709551615]}}"#, 3),
        (
            "twice",
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#,
            3,
        ),
        ("nothing", r#"{"a":{"dtype":"U8","shape":[18446744073709551615,0],"data_offsets":[0,0]}}"#, 0),
        ("four-bits", r#"{"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}}"#, 3),
    ];
    seeds.extend(tensors.iter().map(|(name, json, n)| ("safetensors", *name, with_header(json, &vec![0; *n]))));
    seeds.push(("safetensors", "header-of-2-to-63", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()));
    seeds.push(("safetensors", "header-of-99-mb", [&99_000_000u64.to_le_bytes()[..], b"{}"].concat()));
}

fn tables(seeds: &mut Vec<Seed>) {
    let sound = "id,x0,x1,y,fold,has\np1,1,2,0,0,1\np2,NA,,1,1,0\np3,-1e-3,6,2,0,1\n";
    let wide = format!("y,{}\n", (0..2000).map(|i| format!("x{i}")).collect::<Vec<_>>().join(","));
    let columns = format!("y{}\n0\n", ",x".repeat(200_000));
    let long = "q".repeat(200_000);
    let csv = [
        ("sound", sound.to_owned()),
        ("mark", format!("\u{feff}{sound}")),
        ("quotes", sound.replace("p1", "\"p\"\"1, \n\"")),
        ("not-finite", sound.replace("-1e-3", "nan").replace(",6", ",inf")),
        ("too-large", sound.replace("-1e-3", "1e308")),
        ("digits", sound.replace("-1e-3", &"9".repeat(4000))),
        ("twice", sound.replace("x1", "x0")),
        ("ragged", sound.replace("p2,NA", "p2,NA,1")),
        ("open-quote", sound.replace("p1", "\"p1")),
        ("returns", sound.replace('\n', "\r")),
        ("zeros", sound.replace("p1", "\0")),
        ("no-rows", "id,x0,x1,y,fold,has\n".to_owned()),
        ("label", sound.replace(",0,0,1", ",170141183460469231731687303715884105728,0,1")),
        ("fold", sound.replace(",0,0,1", ",0,1e300,1")),
        ("wide", wide),
        ("million-quotes", "\"".repeat(1_000_000)),
        ("million-lines", format!("y,x\n{}", "0,1\n".repeat(100_000))),
        ("columns", columns),
        ("long-names", format!("x{long},{long}\n1,1\n")),
        ("long-field", format!("y,x\n0,\"{long}\"\n")),
    ];
    for (name, text) in &csv {
        seeds.push(("csv", name, text.clone().into_bytes()));
        if text.len() < 4096 {
            seeds.push(("tsv", name, text.replace(',', "\t").into_bytes()));
        }
    }
    let line = r#"{"id":"p1","x0":1,"x1":-2.5e3,"y":0,"fold":0,"has":true}"#;
    let lines = format!("{line}\n{}\n", line.replace("p1", "p2").replace("-2.5e3", "null"));
    for (name, text) in [
        ("sound", lines.clone()),
        ("mark", format!("\u{feff}{lines}")),
        ("returns", lines.replace('\n', "\r\n\r\n")),
        ("twice", line.replace("x1", "x0")),
        ("nested", line.replace("-2.5e3", "[{\"a\": [1]}]")),
        ("deep", line.replace("-2.5e3", &"[".repeat(4000))),
        ("large", line.replace("-2.5e3", "1e999")),
        ("whole", line.replace("-2.5e3", &"9".repeat(400))),
        ("escapes", line.replace("p1", "\\ud800\\u0000")),
        ("list", format!("[{line}]")),
        ("long-line", line.replace("p1", &"p".repeat(2_000_000))),
        ("many-lines", "{}\n".repeat(100_000)),
        ("many-keys", format!("{{{}\"y\":0}}", (0..20_000).map(|i| format!("\"x{i}\":1,")).collect::<String>())),
    ] {
        seeds.push(("jsonl", name, text.into_bytes()));
    }
    seeds.push(("csv", "not-text", b"y,x\n0,\xff\xfe\n".to_vec()));
    let layout = "version = 1\nname = \"wards\"\nlicence = \"CC0\"\nclasses = [\"a\", \"b\", \"c\"]\nid = \"id\"\n[modalities.lab]\nfile = \"t.csv\"\n\
                  columns = [\"x0\", \"x1\"]\nmissing = \"any-nan\"\n[label]\nfile = \"t.csv\"\nkey = \"y\"\nunknown = 255\n[fold]\nfile = \"t.csv\"\nkey = \"fold\"\n\
                  [client]\nfile = \"t.csv\"\nkey = \"ward\"\n";
    let plain = "name = \"f\"\nclasses = 3\n[modalities.m]\nfile = \"a.safetensors\"\nslice = [\"0..1\"]\nhas = { file = \"t.csv\", key = \"has\" }\n\
                 [modalities.n]\nfile = \"a.npy\"\n[label]\nfile = \"t.csv\"\nkey = \"y\"\n";
    let many: String = (0..2000).map(|i| format!("[modalities.m{i}]\nfile = \"a.npy\"\n")).collect();
    let columns = format!("columns = [{}]", "\"..\", ".repeat(50_000));
    add(
        seeds,
        "dataset",
        &[
            ("joined", layout),
            ("in-order", plain),
            ("list", &plain.replace("\"a.npy\"", "[\"a.npy\", \"a-{00..01}.npy\"]")),
            ("range", &plain.replace("a.npy", "a-{0..18446744073709551615}.npy")),
            ("range-width", &plain.replace("a.npy", &format!("a-{{{}1..9}}.npy", "0".repeat(100_000)))),
            ("text", &layout.replace("columns = [\"x0\", \"x1\"]", "text = \"ward\"\nbytes = 65536")),
            ("image", &layout.replace("columns = [\"x0\", \"x1\"]", "image = \"ward\"\nsize = 512\nskip = 3")),
            ("size", &plain.replace("file = \"a.npy\"", "file = \"a.npy\"\nsize = 18446744073709551615")),
            ("no-labels", "name = \"f\"\n[modalities.m]\nfile = \"a.npy\"\n[samples]\nfile = \"t.csv\"\n"),
            ("outside", &plain.replace("a.npy", "../../etc/passwd")),
            ("classes", &plain.replace("classes = 3", "classes = 9223372036854775807")),
            ("slice", &plain.replace("0..1", "0..18446744073709551615")),
            ("slice-back", &plain.replace("0..1", "9..1")),
            ("column", &plain.replace("slice = [\"0..1\"]", "columns = [9223372036854775807]")),
            ("columns", &plain.replace("slice = [\"0..1\"]", &columns)),
            ("modalities", &format!("name = \"f\"\nclasses = 3\n[label]\nfile = \"t.csv\"\nkey = \"y\"\n{many}")),
            ("prefix", &layout.replace("columns = [\"x0\", \"x1\"]", "prefix = \"\"")),
            ("file", &plain.replace("a.npy", &"n".repeat(5000))),
            ("key", &layout.replace("\"y\"", &format!("\"{}\"", "y".repeat(300_000)))),
        ],
    );
}

fn manifests(seeds: &mut Vec<Seed>) {
    let data = |clients: u64| {
        format!(
            r#"{{"source":"f","clients":{clients},"split":{{}},"partition":{{"kind":"dirichlet","alpha":0.5,"min":1}},"missing":{{"kind":"sample","rate":0.1}},"held_out":0.1}}"#
        )
    };
    let member = |name: &str, rows: &str, present: &str, labels: &str| {
        format!(
            r#"{{"name":"{name}","train":[{rows}],"present":[{present}],"labels":{{{labels}}},"held_out":[],"discarded":[]}}"#
        )
    };
    let manifest = |clients: u64, members: &[String], test: &str| {
        format!(
            r#"{{"schema_version":1,"dataset":{{"source":"f","digest":"{}","rows":3,"classes":3}},"seed":1,"data":{},"modalities":["a","b"],"draws":1,"moved":0,"members":[{}],"test":[{test}]}}"#,
            Digest::of(b""),
            data(clients),
            members.join(",")
        )
    };
    let one = member("client-00", "0,1", "3,1", r#""0":1,"1":1"#);
    let two = [one.clone(), member("client-01", "2", "2", r#""2":1"#)];
    let sound = manifest(2, &two, "");
    add(
        seeds,
        "manifest",
        &[
            ("sound", &sound),
            ("test", &manifest(1, std::slice::from_ref(&one), "2")),
            ("held-out", &manifest(1, std::slice::from_ref(&one), "").replace(r#""test":[]"#, r#""test":[],"held_out":[2]"#)),
            (
                "held-out-twice",
                &manifest(1, std::slice::from_ref(&one), "2").replace(r#""test":[2]"#, r#""test":[2],"held_out":[2]"#),
            ),
            ("twice", &manifest(1, std::slice::from_ref(&one), "1")),
            ("beyond", &manifest(1, &two[1..], "18446744073709551615")),
            ("million", &manifest(1_000_000, &two, "")),
            ("mask", &sound.replace("3,1", "4294967295,1")),
            ("counts", &sound.replace(r#""0":1"#, r#""0":18446744073709551615"#)),
            ("classes", &sound.replace(r#""classes":3"#, r#""classes":0"#)),
            ("rows", &sound.replace(r#""rows":3"#, r#""rows":18446744073709551615"#)),
            ("exponent", &sound.replace("0.5", "1e999")),
            ("deep", &"[".repeat(100_000)),
            ("long", &format!(r#"{{"{}":1}}"#, "k".repeat(1 << 20))),
        ],
    );
    add(
        seeds,
        "data_spec",
        &[
            (
                "sound",
                "source = \"digits\"\nclients = 10\nheld_out = 0.2\n[split]\ntest_per_class = 40\n[partition]\nkind = \"dirichlet\"\nalpha = 0.5\n[missing]\nkind = \"label\"\nlow = 0.1\nhigh = 0.9\nrates = { a = [0.5] }\n",
            ),
            (
                "quantity",
                "source = \"digits\"\nclients = 1000000\npartition = { kind = \"quantity\", power = 1.5, min = 0 }\nmissing = { kind = \"unimodal\", complete = nan }\n",
            ),
            ("kind", "source = \"d\"\nclients = 1\npartition = { kind = 1 }\n"),
            (
                "held-out",
                "source = \"d\"\nclients = 3\nsplit = { client = \"b\", fold = 0 }\npartition = { kind = \"column\" }\nmissing = { kind = \"members\", lacks = { a = [\"x\"], client-00 = [] } }\n",
            ),
        ],
    );
    let agent = "name = \"site\"\ncoordinator = \"127.0.0.1:7443\"\nthreads = 2\n[[member]]\nname = \"north\"\ndata = \"data\"\nheld_out = 0.2\n[partition]\nmanifest = \"p.json\"\nmembers = [\"client-00\"]\n";
    add(
        seeds,
        "agent_config",
        &[
            ("sound", agent),
            ("tls", &format!("{agent}[tls]\nca = \"ca.pem\"\ncert = \"c.pem\"\nkey = \"/abs/k.pem\"\n")),
            ("unknown", &agent.replace("threads", "thread")),
            ("threads", &agent.replace("= 2", "= -1")),
            ("member", &agent.replace("north", "../north")),
            ("long", &format!("{agent}# {}", "x".repeat(1 << 20))),
        ],
    );
}
