//! Records that are made from questions.

use crate::testing::{Bench, Told, refused};

/// Puts what stands in backquotes into quotes, as the Corefile wants it.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for (index, part) in text.split('`').enumerate() {
        let inside = index % 2 == 1;
        out.push_str(&if inside { format!("\"{}\"", part.replace('"', "\\\"")) } else { part.to_owned() });
    }
    out
}

fn ask(template: &str, question: &str) -> String {
    let template = quoted(template);
    let bench = Bench::of(&format!("{template}\nwhoami"));
    let answer = bench.ask(question);
    if answer.contains("_udp") { "passed".into() } else { answer }
}

#[test]
fn records_of_the_pages() {
    for (template, question, want) in [
        ("template ANY ANY {\nrcode NXDOMAIN\n}", "a.b A", "NXDOMAIN aa"),
        (
            "template ANY ANY example {\nrcode NXDOMAIN\nauthority \"example. 60 IN SOA ns root 1 60 60 60 60\"\n}",
            "a.example A",
            "NXDOMAIN aa | example. 60 IN SOA ns. root. 1 60 60 60 60",
        ),
        (
            "template IN A {\nmatch (^|[.])ip-(?P<a>[0-9]*)-(?P<b>[0-9]*)-(?P<c>[0-9]*)-(?P<d>[0-9]*)[.]example[.]$\n\
             answer \"{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}\"\n\
             fallthrough\n}",
            "ip-10-95-12-8.Example A",
            "NOERROR aa ip-10-95-12-8.Example. 60 IN A 10.95.12.8",
        ),
        (
            "template IN PTR in-addr.arpa {\nmatch ^(?P<d>[0-9]*)[.](?P<c>[0-9]*)[.](?P<b>[0-9]*)[.]10[.]in-addr[.]arpa[.]$\n\
             answer \"{{ .Name }} 60 IN PTR ip-10-{{ .Group.b }}-{{ .Group.c }}-{{ .Group.d }}.example.com.\"\n}",
            "8.12.95.10.in-addr.arpa PTR",
            "NOERROR aa 8.12.95.10.in-addr.arpa. 60 IN PTR ip-10-95-12-8.example.com.",
        ),
        (
            "template IN MX example {\nmatch (.*)[.]example[.]$\nanswer \"{{ .Name }} 60 IN MX 10 {{ index .Match 1 }}.mx.\"\n\
             additional \"{{ index .Match 1 }}.mx. 60 IN A 10.0.0.1\"\n}",
            "a.example MX",
            "NOERROR aa a.example. 60 IN MX 10 a.mx. |+ a.mx. 60 IN A 10.0.0.1",
        ),
        (
            "template IN A {\nmatch ^ip0a(?P<b>[a-f0-9]{2})(?P<c>[a-f0-9]{2})(?P<d>[a-f0-9]{2})[.]\n\
             answer \"{{ .Name }} 60 IN A 10.{{ parseInt .Group.b 16 8 }}.{{ parseInt .Group.c 16 8 }}.{{ parseInt .Group.d 16 8 }}\"\n}",
            "ip0a5f0c09.x A",
            "NOERROR aa ip0a5f0c09.x. 60 IN A 10.95.12.9",
        ),
        (
            "template IN TXT {\nanswer `{{ $z := .Zone }}{{ .Name }} 5 {{ .Class }} {{ .Type }} \"{{ .Remote }} {{ $z }} {{ if eq .Type \"A\" \"TXT\" }}yes{{ else }}no{{ end }}\"`\n}",
            "a TXT",
            "NOERROR aa a. 5 IN TXT \"10.240.0.1 . yes\"",
        ),
    ] {
        assert_eq!(ask(template, question), want, "{template}");
    }
}

#[test]
fn what_does_not_match() {
    let template = "template IN A example {\nmatch ^x\nanswer \"{{ .Name }} 5 A 10.0.0.1\"\n}";
    assert_eq!(ask(template, "a.example A"), "SERVFAIL");
    assert_eq!(ask(template, "a.example AAAA"), "passed");
    assert_eq!(ask(template, "a.other A"), "passed");
    assert_eq!(ask(&template.replace("match", "fallthrough\nmatch"), "a.example A"), "passed");
    assert_eq!(ask(&template.replace("match", "fallthrough b.example\nmatch"), "a.example A"), "SERVFAIL");
    assert_eq!(ask(&template.replace("10.0.0.1", "nonsense"), "x.example A"), "SERVFAIL");
}

#[test]
fn variables_and_conditions() {
    let template = "template IN TXT {\nmatch ^(?P<host>[^.]*)[.]\nvar up upper(group('host'))\nvar both up + group(1)\n\
                    expr up != 'NO'\nanswer \"{{ .Name }} 5 TXT {{ .Var.both }}\"\nfallthrough\n}";
    assert_eq!(ask(template, "ab.c TXT"), "NOERROR aa ab.c. 5 IN TXT \"ABab\"");
    assert_eq!(ask(template, "no.c TXT"), "passed");
}

#[test]
fn aliases_are_followed_and_errors_told() {
    let told = Told::good();
    let bench = Bench::of(&format!(
        "template IN A from {{\nanswer \"{{{{ .Name }}}} 60 CNAME a.to.\"\nederror 21 \"not here\"\n}}\nforward . {}",
        told.address
    ));
    assert_eq!(bench.ask("x.from A"), "NOERROR aa x.from. 60 IN CNAME a.to.; a.to. 30 IN A 10.0.0.1");
    assert_eq!(
        bench.exchange_from("10.0.0.1", "x.from A edns").reply.options,
        b"\x00\x0f\x00\x0a\x00\x15not here"
    );
    let matches = "coredns_template_matches_total{server=\"dns://:53\",zone=\"from.\",view=\"\",class=\"IN\",type=\"A\"}";
    assert_eq!(bench.metric(matches), "2");
}

#[test]
fn templates_themselves() {
    let fill = |text: &str| {
        ask(
            &format!("template IN TXT {{\nmatch (.*)\nanswer `{{{{ .Name }}}} 5 TXT \"{text}\"`\n}}"),
            "ab.c TXT",
        )
        .replace("NOERROR aa ab.c. 5 IN TXT ", "")
    };
    for (text, want) in [
        ("{{ printf \"%03d|%x|%s\" 7 255 .Class }}", "\"007|ff|IN\""),
        ("a {{- 1 -}} b", "\"a1b\""),
        ("{{/* nothing */}}", "\"\""),
        ("{{ if false }}a{{ else if true }}b{{ else }}c{{ end }}", "\"b\""),
        ("{{ len .Match }} {{ .Class | printf \"%s-%s\" \"x\" }}", "\"2 x-IN\""),
        ("{{ and true (not false) }} {{ or 0 5 }} {{ lt 1 2 }} {{ ne 1 2 }}", "\"true 5 true true\""),
        ("{{ .Group.none }}", "\"\""),
        ("{{ .Meta \"x/y\" }}", "\"\""),
        ("{{ range .Match }}<{{ . }}>{{ end }}", "\"<ab.c.><ab.c.>\""),
        (
            "{{ range $i, $m := .Match }}{{ if $i }}, {{ end }}{{ $i }}={{ $m }}/{{ $.Class }}{{ end }}",
            "\"0=ab.c./IN, 1=ab.c./IN\"",
        ),
        (
            "{{ range 5 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ if eq . 3 }}{{ break }}{{ end }}{{ . }}{{ end }}",
            "\"02\"",
        ),
        ("{{ range 0 }}x{{ else }}none{{ end }}", "\"none\""),
        (
            "{{ with .Group.none }}a{{ else with .Class }}{{ . }}{{ else }}c{{ end }}{{ with $x := 7 }}{{ $x }}{{ end }}",
            "\"IN7\"",
        ),
        (
            "{{ define \"t\" }}({{ . }}{{ $ }}){{ end }}{{ template \"t\" 1 }}{{ template \"t\" .Class }}",
            "\"(11)(ININ)\"",
        ),
        ("{{ block \"t\" . }}{{ .Class }}{{ end }}", "\"IN\""),
        ("{{ define \"t\" }}{{ template \"t\" . }}{{ end }}{{ template \"t\" . }}", "SERVFAIL"),
        (
            "{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}{{ range 1000 }}{{ range 1000 }}{{ $x := 1 }}{{ end }}{{ end }}",
            "SERVFAIL",
        ),
        ("{{ range .Match }}{{ .Name }}{{ end }}", "SERVFAIL"),
        ("{{ . }}", "SERVFAIL"),
        ("{{ range .Class }}x{{ end }}", "SERVFAIL"),
        ("{{ .What }}", "SERVFAIL"),
        ("{{ index .Match 9 }}", "SERVFAIL"),
        ("{{ parseInt \"zz\" 10 8 }}", "SERVFAIL"),
    ] {
        assert_eq!(fill(text), want, "{text}");
    }
    for (option, want) in [
        ("answer `{{ range .Match }}x`", "a range without end"),
        ("answer `{{ break }}`", "break without range"),
        ("answer `{{ define x }}{{ end }}`", "define takes a name in quotes"),
        ("answer `{{ with 1 }}{{ else }}`", "a with without end"),
        ("answer `{{ range x := 5 }}{{ end }}`", "a variable begins with $"),
        ("answer `{{ what 1 }}`", "no function is called what"),
        ("answer `{{ if true }}x`", "an if without end"),
        ("answer `{{ end }}`", "else or end without if"),
        ("answer `{{ .Name `", "an action opens that never closes"),
        ("answer `{{ (1 }}`", "a parenthesis opens that never closes"),
        ("answer `{{ }}`", "an empty action"),
        ("match (", "\"(\": "),
        ("var true 1", "\"true\": no name for a variable"),
        ("var x what()", "\"var\": no function is called what"),
        ("rcode WHAT", "\"WHAT\": no response code"),
        ("ederror x", "\"x\": no number"),
        ("what", "\"what\": no option of plugin template"),
    ] {
        let error = refused(&quoted(&format!("template IN A {{\n{option}\n}}")));
        assert!(error.contains(want), "{option}: {error}");
    }
    assert!(refused("template IN").contains("takes a class and a type"));
    assert!(refused("template XX A").contains("\"XX\": no class"));
}
