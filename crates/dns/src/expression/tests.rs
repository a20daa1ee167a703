//! Expressions and what they are.

use super::*;
use std::time::Instant;
use wire::{Asked, Type};

fn value(text: &str) -> String {
    let mut exchange = Exchange::new(Instant::now());
    exchange.asked = Asked::of_question("Web.Example.org".parse().unwrap(), Type::A);
    exchange.begin(Default::default(), Instant::now());
    exchange.from.client = "10.1.2.3:4711".parse().unwrap();
    exchange.from.local = "[fd00::1]:53".parse().unwrap();
    let variables = [("x".to_owned(), Value::Int(5))].into();
    let groups = [("0".to_owned(), "whole".to_owned()), ("host".to_owned(), "web".to_owned())].into();
    let environment = Environment { exchange: Some(&exchange), variables, groups };
    let known = ["x".to_owned()];
    let names = Names { variables: &known, groups: true, metadata: true };
    match Expression::parse(text, &names).and_then(|expression| expression.evaluate(&environment)) {
        Ok(value) => value.to_string(),
        Err(what) => format!("wrong: {what}"),
    }
}

#[test]
fn values() {
    for (text, want) in [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("2 ** 3 ** 2", "512"),
        ("7 / 2", "3.5"),
        ("7 % 4 - -1", "4"),
        ("'a' + \"b\" + `c\\`", "abc\\"),
        ("1 < 2 && 'a' < 'b' || false", "true"),
        ("not (1 == 1.0)", "false"),
        ("1 in [1, 2] and 3 not in [1, 2]", "true"),
        ("type() in ['A', 'AAAA']", "true"),
        ("name() matches '^web\\\\..*\\\\.org\\\\.$'", "true"),
        ("name() not matches 'z' && name() not contains 'y'", "true"),
        ("(type() == 'A' && name() == 'example.com.') || client_ip() == '10.1.2.3'", "true"),
        ("incidr(client_ip(), '10.0.0.0/8')", "true"),
        ("incidr(server_ip(), 'fd00::/8')", "true"),
        ("incidr('127.0.0.1', '10.0.0.0/8') ? 'in' : 'out'", "out"),
        ("server_ip() + ':' + server_port()", "[fd00::1]:53"),
        ("proto() + port() + class()", "tcp4711IN"),
        ("do() || opcode() > 0 || id() > 0", "false"),
        ("name() startsWith 'web' && name() endsWith 'org.'", "true"),
        ("split('a,b', ',')[1] + join(['c', 'd'], '-')", "bc-d"),
        ("len('abc') + len([1])", "4"),
        ("lower('A') + upper('b') + trim(' c ') + replace('dxd', 'x', 'y')", "aBcdyd"),
        ("nil ?? 5", "5"),
        ("1..3", "[1 2 3]"),
        ("x + int('2') + 0x10", "23"),
        ("group('host') + group(0) + group('none')", "webwhole"),
        ("'abc'[-1]", "c"),
        ("metadata('a/b') == ''", "true"),
    ] {
        assert_eq!(value(text), want, "{text}");
    }
}

#[test]
fn what_is_wrong() {
    for (text, want) in [
        ("", "it ends too early"),
        ("1 +", "it ends too early"),
        ("1 2", "Int(2) is one too many"),
        ("(1", ") was expected at the end"),
        ("what()", "no function is called what"),
        ("what", "nothing is called what"),
        ("incidr('a')", "incidr takes 2 arguments, not 1"),
        ("name() matches '('", "regex parse error"),
        ("'a", "a quote opens that never closes"),
        ("1 # 2", "'#' has no meaning here"),
        ("1 && true", "1 is neither true nor false"),
        ("'a' < 1", "a and 1 have no order"),
        ("1 % 0", "too large a number, or a division by zero"),
        ("9223372036854775807 + 1", "too large a number"),
        ("[1][5]", "there is no place 5"),
        ("1..100000", "more than 10000 numbers"),
        (&"(".repeat(1000), "more than 64 deep"),
        (&"!".repeat(1000), "more than 64 deep"),
    ] {
        let got = value(text);
        assert!(got.contains(want) && got.starts_with("wrong"), "{text}: {got}");
    }
    let none = Names::default();
    assert!(
        Expression::parse("group(1)", &none).is_err() && Expression::parse("metadata('a')", &none).is_err()
    );
    assert!(functions::is_free_name("my_var1"));
    for taken in ["true", "len", "in", "1a", "", "a-b"] {
        assert!(!functions::is_free_name(taken), "{taken}");
    }
}
