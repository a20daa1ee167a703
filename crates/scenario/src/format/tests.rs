//! Scenario files taken apart, good ones and bad ones.

use super::*;

const STORY: &str = "\
What it shows.

-- config --
mode: ipvs
-- manifests --
kind: Service
---
kind: Node
-- verdicts --
# A remark.
10.0.0.1 -> 10.0.0.2:80/tcp  pass   # another

-- apply: it changes --
kind: Service
-- delete --
EndpointSlice shop/web-1
Node node-b
-- verdicts --
10.0.0.1 -> 10.0.0.2:80/tcp  drop
-- nftables --
table
";

fn parse_text(text: &str) -> Result<Scenario, Error> {
    Scenario::parse(Path::new("scenarios/story.txt"), text)
}

#[test]
fn a_story() {
    let story = parse_text(STORY).unwrap();
    assert_eq!(story.name(), "story");
    assert_eq!(story.prose, "What it shows.");
    assert_eq!(story.config, Some(Block { line: 4, text: "mode: ipvs\n".to_owned() }));
    let [first, second] = &story.steps[..] else { panic!("{:?}", story.steps) };
    assert_eq!(first.apply, [Block { line: 6, text: "kind: Service\n---\nkind: Node\n".to_owned() }]);
    assert_eq!(first.verdicts.len(), 1);
    assert_eq!(first.verdicts[0].0, 11);
    assert_eq!(second.title, "it changes");
    assert_eq!(second.apply.len(), 1);
    let slice = ObjectKey::Slice(ObjectName::new("shop", "web-1"));
    assert_eq!(second.delete, [slice, ObjectKey::Node("node-b".into())]);
    assert_eq!(second.verdicts.len(), 1);
    assert_eq!(second.tables[&Mode::Nftables].text, "table\n");
}

#[test]
fn what_is_no_scenario_is_refused_with_its_line() {
    let bad = [
        ("", "story.txt:1: the file does not begin by saying"),
        ("-- manifests --\n", "story.txt:1: the file does not begin by saying"),
        ("X\n", "story.txt:1: nothing is checked"),
        ("X\n-- manifests --\n", "story.txt:1: nothing is checked"),
        ("X\n-- verdict --\n", "story.txt:2: section \"verdict\" is unknown"),
        ("X\n-- verdicts --\n\nnonsense\n", "story.txt:4: a verdict reads FROM"),
        ("X\n-- problems --\n-- config --\n", "story.txt:3: section \"config\" is unknown, or not"),
        ("X\n-- problems --\n-- problems --\n", "story.txt:3: a second problems section"),
        ("X\n-- problems --\n-- delete: y --\nWeb shop/web\n", "story.txt:4: \"Web shop/web\" is not KIND"),
        ("X\n-- problems --\n-- delete: y --\nService web\n", "story.txt:4: \"Service web\" is not KIND"),
        ("X\n-- problems --\n-- delete: y --\nNode a\n", "story.txt:1: nothing is checked after step \"y\""),
        ("X\n-- verdicts: y --\n", "story.txt:2: only apply and delete have titles"),
    ];
    for (text, want) in bad {
        let got = parse_text(text).unwrap_err().to_string();
        assert!(got.contains(want), "{text:?}: {got}");
    }
}

#[test]
fn sections_can_be_rewritten() {
    let text = "X\n\n-- nftables --\nold\n\n-- delete: y --\nNode b\n\n-- nftables --\nold\nold\n";
    let story = parse_text(text).unwrap();
    let blocks = story.steps.iter().map(|step| step.tables[&Mode::Nftables].clone());
    let sections: Vec<_> = blocks.zip(["a\nb\n".to_owned(), "c".to_owned()]).collect();
    let want = "X\n\n-- nftables --\na\nb\n\n-- delete: y --\nNode b\n\n-- nftables --\nc\n";
    assert_eq!(rewrite(text, &sections), want);
    assert_eq!(rewrite(want, &[]), want);
}
