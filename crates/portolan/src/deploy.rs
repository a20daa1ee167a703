//! Tests of what stands in `deploy/`: that it says what the program does, and no more.

use crate::kube_proxy;
use crate::metrics::Metrics;
use crate::pages::{self, Told};
use crate::start::counter;
use dataplane::Mode;
use model::Family;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use telemetry::health::Health;
use watch::{Call, Keep};

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of a file with several documents.
fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| document.lines().any(|l| !l.starts_with('#')));
    documents.map(|text| serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))).collect()
}

fn of_kind<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// All names of metrics that the daemon offers.
fn offered() -> BTreeSet<String> {
    let mut text = String::new();
    for mode in Mode::ALL {
        let metrics = Arc::new(Metrics::new(mode, &Family::ALL));
        let told = Told {
            mode,
            metrics: metrics.clone(),
            health: Arc::new(Health::new(Duration::ZERO)),
            configuration: String::new(),
            flags: String::new(),
            started: SystemTime::UNIX_EPOCH,
        };
        pages::register(Arc::new(told));
        counter(metrics.clone(), "https://h".into())(Call {
            method: "GET",
            code: None,
            took: Duration::ZERO,
        });
        metrics.registry.write(&mut text);
    }
    telemetry::process::write(&mut text);
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The names of metrics in an expression.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["portolan_", "kubeproxy_", "rest_client_", "process_"];
    let metrics = words.filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)));
    metrics.map(|word| word.trim_end_matches("_bucket").to_owned()).collect()
}

#[test]
fn dashboards_and_alerts_ask_for_what_there_is() {
    let rules: Value = serde_saphyr::from_str(&read("monitoring/rules.yaml")).expect("YAML");
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).expect("JSON");
    let mut expressions = Vec::new();
    for rule in rules["groups"][0]["rules"].as_array().expect("rules") {
        for field in ["alert", "expr"] {
            assert!(rule[field].as_str().is_some_and(|text| !text.is_empty()), "{rule}");
        }
        assert!(
            rule["annotations"]["summary"].is_string() && rule["labels"]["severity"].is_string(),
            "{rule}"
        );
        expressions.extend(rule["expr"].as_str());
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    expressions.extend(targets.filter_map(|target| target["expr"].as_str()));
    assert!(expressions.len() > 20, "{expressions:?}");
    let offered = offered();
    for expression in expressions {
        let named = named(expression);
        assert!(!named.is_empty(), "{expression}");
        assert!(named.is_subset(&offered), "{expression}: not all of {named:?} are offered");
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].to_string()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
}

#[test]
fn rights_are_those_that_are_used() {
    let objects = objects(&read("kustomize/rbac.yaml"));
    let mut granted = BTreeSet::new();
    for rule in of_kind(&objects, "ClusterRole")["rules"].as_array().expect("rules") {
        assert_eq!(texts(&rule["verbs"]), ["list", "watch"]);
        for group in texts(&rule["apiGroups"]) {
            granted.extend(texts(&rule["resources"]).into_iter().map(|resource| (group, resource)));
        }
    }
    let used: BTreeSet<_> = watch::rights(Keep::default()).into_iter().collect();
    assert_eq!(granted, used);
    let role = of_kind(&objects, "Role");
    assert_eq!(role["metadata"]["namespace"], "default");
    assert_eq!(texts(&role["rules"][0]["verbs"]), ["create"]);
    for binding in ["ClusterRoleBinding", "RoleBinding"] {
        let binding = of_kind(&objects, binding);
        let role = of_kind(&objects, binding["roleRef"]["kind"].as_str().expect("a kind"));
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        assert_eq!(binding["subjects"][0]["name"], of_kind(&objects, "ServiceAccount")["metadata"]["name"]);
    }
}

#[test]
fn the_daemon_set_starts_what_the_image_holds() {
    let set = &objects(&read("kustomize/daemonset.yaml"))[0];
    let pod = &set["spec"]["template"]["spec"];
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("/usr/local/bin/portolan\n"), "{dockerfile}");
    assert!(dockerfile.contains("ln -s portolan /usr/local/bin/kube-proxy"), "{dockerfile}");
    for container in [&pod["initContainers"][0], &pod["containers"][0]] {
        assert_eq!(texts(&container["command"]), ["/usr/local/bin/kube-proxy"]);
        let arguments = std::iter::once(kube_proxy::NAME).chain(texts(&container["args"]));
        kube_proxy::command().try_get_matches_from(arguments).expect("flags that there are");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    }
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(texts(&context["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(texts(&context["capabilities"]["add"]), ["NET_ADMIN"]);
    assert_eq!(context.get("privileged"), None);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    let account = objects(&read("kustomize/rbac.yaml"));
    assert_eq!(pod["serviceAccountName"], of_kind(&account, "ServiceAccount")["metadata"]["name"]);
    let base: Value = serde_saphyr::from_str(&read("kustomize/kustomization.yaml")).expect("YAML");
    assert_eq!(texts(&base["resources"]), ["rbac.yaml", "daemonset.yaml"]);
    assert_eq!(base["images"][0]["name"], pod["containers"][0]["image"]);
    assert_eq!(base["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
}

/// What `helm template -n kube-system` makes of a template that uses no more of its language than ours.
fn rendered(template: &str, values: &Value) -> String {
    let value = |path: &str| path.trim_start_matches(".Values.").split('.').fold(values, |v, key| &v[key]);
    let mut text = String::new();
    let mut shown = true;
    for line in template.lines() {
        let Some((before, rest)) = line.split_once("{{") else {
            if shown {
                text += &format!("{line}\n");
            }
            continue;
        };
        let (expression, after) = rest.split_once("}}").expect("an end");
        let words: Vec<&str> = expression.trim_matches(['-', ' ']).split(' ').collect();
        match words.as_slice() {
            ["if", path] => shown = value(path).as_array().is_none_or(|list| !list.is_empty()),
            ["end"] => shown = true,
            _ if !shown => {}
            ["toYaml", path, "|", "nindent", indent] => {
                // JSON is YAML; the indentation is for lists and maps that go over lines.
                let _: usize = indent.parse().expect("a number");
                text += &format!("{before}{}{after}\n", value(path));
            }
            [".Release.Namespace"] => text += &format!("{before}kube-system{after}\n"),
            [path] if path.starts_with(".Values.") => {
                text += &format!("{before}{}{after}\n", value(path).as_str().expect("a text"));
            }
            other => panic!("{other:?} is more than this test knows"),
        }
    }
    text
}

#[test]
fn the_chart_gives_the_same_objects_as_the_base() {
    let values: Value = serde_saphyr::from_str(&read("helm/portolan/values.yaml")).expect("YAML");
    let chart: Value = serde_saphyr::from_str(&read("helm/portolan/Chart.yaml")).expect("YAML");
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&chart["appVersion"], &env!("CARGO_PKG_VERSION").into())
    );
    let image = values["image"].as_str().expect("an image");
    for file in ["rbac.yaml", "daemonset.yaml"] {
        let template = read(&format!("helm/portolan/templates/{file}"));
        let base =
            read(&format!("kustomize/{file}")).replace("image: portolan\n", &format!("image: {image}\n"));
        assert_eq!(objects(&rendered(&template, &values)), objects(&base), "{file}");
    }
    let mut more = values;
    more["extraArgs"] = serde_json::json!(["-v=2"]);
    let template = read("helm/portolan/templates/daemonset.yaml");
    assert!(rendered(&template, &more).contains("[\"-v=2\"]"));
}
