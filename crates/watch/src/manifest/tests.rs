//! Properties of reading. What single manifests become is in `tests/cases`.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// What a text holds, printed.
fn read(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    Reader::new(Keep::ALL).read(text.as_bytes(), &mut |found| out.push(format!("{found:?}")));
    out
}

/// Bits of manifests that lead deep into the reader.
fn piece() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "apiVersion: v1\n",
        "kind: Service\n",
        "kind: List\n",
        "items:\n",
        "- ",
        "  ",
        "\n",
        "---\n",
        "...\n",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "'",
        "&a ",
        "*a",
        "<<: ",
        "metadata:\n",
        "  name: web\n",
        "spec:\n",
        "  ports:\n",
        "  - port: 80\n",
        "  clusterIP: 10.96.0.1\n",
        "\"kind\":\"Service\"",
        "\"apiVersion\":\"v1\"",
        "null",
        "70000",
        "|\n",
        "# x\n",
        "%YAML 1.2\n",
        "\u{feff}",
        "\t",
        "\0",
        "\u{85}",
        "!!binary ",
        "? ",
    ];
    prop_oneof![4 => proptest::sample::select(WORDS).prop_map(|word: &str| word.to_owned()), 1 => ".{0,8}"]
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz(&bytes);
    }

    #[test]
    fn pieces_of_manifests(pieces in proptest::collection::vec(piece(), 0..40)) {
        fuzz(pieces.concat().as_bytes());
    }

    #[test]
    fn cut_short(end in 0usize..2000) {
        let text = include_str!("../../tests/cases/service-full.yaml");
        fuzz(text.as_bytes().get(..end).unwrap_or(text.as_bytes()));
    }
}

/// Not a limit of speed: without bounds these would not end at all, or take all memory.
#[test]
fn bombs() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    let text = "x".repeat(100_000);
    let copies = format!("a: &a {text}\nb: [{}]\n", vec!["*a"; 20_000].join(","));
    let brackets = "[".repeat(1_000_000);
    let json = format!("{{\"a\":{}", "[".repeat(1_000_000));
    let blocks = (0..5000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    for bomb in [laughs, copies, brackets, json, blocks] {
        let found = read(&bomb);
        assert!(found.iter().any(|found| found.starts_with("Lost")), "{found:?}");
    }
}

#[test]
fn problems_of_one_file_are_bounded() {
    let found = read(&"apiVersion: v1\nkind: Service\n---\n".repeat(5000));
    let problems: Vec<_> = found.iter().filter(|found| found.starts_with("Problem")).collect();
    assert_eq!(problems.len(), 101);
    assert!(problems.last().unwrap().contains("4900 more problems"), "{problems:?}");
}

#[test]
fn megabytes_of_binary() {
    let noise: Vec<u8> = (0..5u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut found = Vec::new();
    Reader::new(Keep::default()).read(&noise, &mut |f| found.push(format!("{f:?}")));
    assert!(found.iter().any(|found| found.contains("not UTF-8 text")), "{}", found.len());
    assert!(found.len() <= 2 * PROBLEMS_A_FILE_MAX as usize);
}

/// JSON and YAML of the same objects read alike, one by one and as a list, kind before and after.
#[test]
fn every_way_to_write_it() {
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    let bare = r#"{"metadata":{"name":"web","namespace":"shop"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    let block = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\nspec:\n  clusterIP: 10.96.0.1\n  ports:\n  - port: 80\n";
    let indented = block.replace('\n', "\n  ");
    let want = read(service);
    assert_eq!(want.len(), 1);
    assert!(want.iter().all(|found| found.starts_with("Object(Service")), "{want:?}");
    for text in [
        block.to_owned(),
        block.replace('\n', "\r\n"),
        format!("---\n{block}"),
        format!("--- {service}"),
        format!("---\n{service}\n"),
        format!(r#"{{"apiVersion":"v1","kind":"List","items":[{service}]}}"#),
        format!(r#"{{"apiVersion":"v1","items":[{service}],"kind":"List","metadata":{{}}}}"#),
        format!(r#"{{"kind":"ServiceList","apiVersion":"v1","items":[{bare}]}}"#),
        format!(r#"{{"apiVersion":"v1","items":[{bare}],"kind":"ServiceList"}}"#),
        format!("apiVersion: v1\nitems:\n- {indented}\nkind: List\nmetadata: {{}}\n"),
        format!("apiVersion: v1\nkind: List\nitems:\n- {indented}\n"),
        format!("kind: List\nitems:\n- {indented}\napiVersion: v1\n"),
        format!("apiVersion: v1\nitems:\n- {bare}\nkind: ServiceList\n"),
        format!("apiVersion: v1\nkind: ServiceList\nitems:\n- {bare}\n"),
        format!("apiVersion: v1\nkind: List\nitems:\n- kind: List\n  apiVersion: v1\n  items: [{service}]\n"),
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}".to_owned(),
    ] {
        assert_eq!(read(&text), want, "{text}");
    }
}

/// A bad document takes none of the others with it.
#[test]
fn the_rest_is_read() {
    let good =
        |name: &str| format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#);
    let (a, b) = (good("a"), good("b"));
    for bad in ["a: b: c", "{\"a\": ", "]", "\"x", "\u{1}", "- [", "\ta:\n\t- {", "x: *y"] {
        let yaml = format!("{a}\n---\n{bad}\n---\n{b}\n");
        let found = read(&yaml);
        assert_eq!(found.iter().filter(|f| f.starts_with("Object")).count(), 2, "{yaml}\n{found:#?}");
        assert_eq!(found.iter().filter(|f| f.starts_with("Lost")).count(), 1, "{yaml}\n{found:#?}");
    }
    for bad in ["{\"a\": ", "{\"a\":1,,}", "{\"kind\": [}", "{\"a\"}"] {
        let json = format!("{a}\n{bad}\n{b}\n");
        let found = read(&json);
        assert_eq!(found.iter().filter(|f| f.starts_with("Object")).count(), 2, "{json}\n{found:#?}");
    }
}

/// Reading stays linear in the number of documents: quadratic, this would take minutes.
#[test]
fn many_documents() {
    let started = std::time::Instant::now();
    let mut count = 0;
    let text =
        "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"a\"}}\n".repeat(50_000);
    Reader::new(Keep::default()).read(text.as_bytes(), &mut |_| count += 1);
    assert_eq!(count, 50_000);
    assert!(started.elapsed() < Duration::from_secs(60));
}
