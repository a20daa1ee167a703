//! Configuration files, what they mean and what is said of them.

use config::{
    Configuration, DetectLocal, IpvsAddresses, KubeProxyConfiguration, Loaded, Mode, NodePortAddresses,
    Periods, SetAside, load, parse,
};
use std::path::Path;
use std::time::Duration;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn read(text: &str) -> Result<Loaded, String> {
    parse(text, Path::new("FILE")).map_err(|error| error.to_string())
}

fn file(name: &str) -> Loaded {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name)).expect("a good file")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files").join(name))
        .expect("a file")
}

#[test]
fn kubeadm_writes_defaults() {
    let loaded = file("kubeadm.yaml");
    assert_eq!(loaded.warnings, [""; 0]);
    let mut want = Configuration::default();
    want.client.kubeconfig = Some("/var/lib/kube-proxy/kubeconfig.conf".into());
    want.detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(loaded.configuration, want);
}

#[test]
fn defaults() {
    let written = KubeProxyConfiguration::default().with_defaults().to_yaml();
    assert_eq!(written, text("default.yaml"));
    assert_eq!(file("default.yaml").configuration, Configuration::default());
    assert_eq!(read(HEAD).unwrap().configuration, Configuration::default());
    let default = Configuration::default();
    assert_eq!(default.healthz_address.to_string(), "0.0.0.0:10256");
    assert_eq!(default.metrics_address.to_string(), "127.0.0.1:10249");
    assert_eq!(
        (default.mode, default.oom_score_adj, default.ipvs.scheduler.as_str()),
        (Mode::Auto, -999, "rr")
    );
    assert_eq!(default.detect_local, DetectLocal::ClusterCidr(vec![]));
    assert_eq!(default.node_port_addresses, NodePortAddresses::Default);
    let seconds =
        |sync, min_sync| Periods { sync: Duration::from_secs(sync), min_sync: Duration::from_secs(min_sync) };
    assert_eq!(default.periods(Mode::IpTables), seconds(30, 1));
    assert_eq!(default.periods(Mode::Ipvs), seconds(30, 0));
    assert_eq!(default.periods(Mode::NfTables), seconds(30, 1));
}

#[test]
fn every_field_is_read_and_written() {
    let loaded = file("every-field.yaml");
    assert_eq!(loaded.warnings, [""; 0]);
    let written = loaded.typed.to_yaml();
    let again = read(&written).unwrap();
    assert_eq!(again.typed, loaded.typed);
    assert_eq!(again.configuration, loaded.configuration);
    assert_eq!(read(&loaded.typed.to_json().to_string()).unwrap().configuration, loaded.configuration);
    // Each line that is written differs from the default's, so no field is forgotten. Those that are
    // the same: what the document is, and one option that is off on purpose.
    let default = text("default.yaml");
    let same: Vec<&str> =
        written.lines().filter(|line| default.lines().any(|other| other == *line)).collect();
    let scalars: Vec<&str> = same.into_iter().filter(|line| !line.ends_with(':')).collect();
    let kept = [
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
        "kind: KubeProxyConfiguration",
        "  format: text",
        "      splitStream: false",
    ];
    assert_eq!(scalars, kept);
    let meant = loaded.configuration;
    assert_eq!(meant.healthz_address.to_string(), "[::]:10256");
    assert_eq!(meant.metrics_address.to_string(), "127.0.0.2:10249");
    assert_eq!(meant.detect_local, DetectLocal::InterfaceNamePrefix("veth".into()));
    assert_eq!(meant.conntrack.max(2), Some(5000));
    assert_eq!(meant.conntrack.max(8), Some(8000));
    assert_eq!(meant.conntrack.max(1_000_000), Some(1_048_576));
    assert_eq!(meant.logging.flush_frequency, Duration::from_millis(1500));
}

/// What a guide for Kubernetes 1.11 says, and what files have carried along since.
#[test]
fn old_files() {
    let guide = format!(
        "{HEAD}mode: \"ipvs\"\nipvs:\n  excludeCIDRs: null\n  minSyncPeriod: 5s\n  scheduler: \"rr\"\n  syncPeriod: 30s\n"
    );
    let loaded = read(&guide).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(loaded.configuration.mode, Mode::Ipvs);
    let periods = Periods { sync: Duration::from_secs(30), min_sync: Duration::from_secs(5) };
    assert_eq!(loaded.configuration.ipvs.periods, periods);
    let old = format!(
        "{HEAD}resourceContainer: /kube-proxy\nudpIdleTimeout: 250ms\nenableProfiling: false\nportRange: \"\"\n\
         clientConnection: {{kubeconfig: /x, openRequests: 1}}\nconntrack: {{max: 0, maxPerCore: 32768}}\n\
         ipvs: {{scheduler: lc, scheduler: wlc}}\n"
    );
    let loaded = read(&old).unwrap();
    assert_eq!(
        loaded.warnings,
        [
            "FILE: unknown field KubeProxyConfiguration.resourceContainer",
            "FILE: unknown field KubeProxyConfiguration.udpIdleTimeout",
            "FILE: unknown field KubeProxyConfiguration.clientConnection.openRequests",
            "FILE: unknown field KubeProxyConfiguration.conntrack.max",
            "FILE: field KubeProxyConfiguration.ipvs.scheduler is given twice; the last counts",
        ]
    );
    assert_eq!(loaded.configuration.ipvs.scheduler, "wlc");
}

/// A line of a file and what is wrong with it, without `FILE: KubeProxyConfiguration.`.
#[test]
fn refused() {
    let cases: &[(&str, &[&str])] = &[
        (
            "mode: userspace",
            &[
                r#"mode: Invalid value: "userspace": must be iptables, ipvs, nftables, ebpf or blank (blank means the best that works)"#,
            ],
        ),
        (
            "iptables: {masqueradeBit: 32}",
            &["iptables.masqueradeBit: Invalid value: 32: must be within the range [0, 31]"],
        ),
        (
            "iptables: {masqueradeBit: -1}",
            &["iptables.masqueradeBit: Invalid value: -1: must be within the range [0, 31]"],
        ),
        (
            "nftables: {masqueradeBit: 40}",
            &["nftables.masqueradeBit: Invalid value: 40: must be within the range [0, 31]"],
        ),
        (
            "iptables: {masqueradeBit: 3000000000}",
            &["iptables.masqueradeBit: 3000000000 is not between -2147483648 and 2147483647"],
        ),
        ("iptables: {masqueradeBit: x}", &[r#"iptables.masqueradeBit: "x" is not a whole number"#]),
        ("iptables: {masqueradeAll: 1}", &["iptables.masqueradeAll: 1 is not true or false"]),
        ("iptables: []", &["iptables: a list is not a map"]),
        (
            "mode: ipvs\nipvs: {syncPeriod: -1s}",
            &[
                r#"ipvs.syncPeriod: Invalid value: "-1s": must be greater than 0"#,
                r#"ipvs.syncPeriod: Invalid value: "-1s": must be greater than or equal to KubeProxyConfiguration.ipvs.minSyncPeriod"#,
            ],
        ),
        (
            "mode: ipvs\nipvs: {syncPeriod: 1s, minSyncPeriod: 5s}",
            &[
                r#"ipvs.syncPeriod: Invalid value: "1s": must be greater than or equal to KubeProxyConfiguration.ipvs.minSyncPeriod"#,
            ],
        ),
        (
            "iptables: {minSyncPeriod: -5s}",
            &[r#"iptables.minSyncPeriod: Invalid value: "-5s": must be greater than or equal to 0"#],
        ),
        ("ipvs: {syncPeriod: 30}", &[r#"ipvs.syncPeriod: 30 is not a duration such as "5s""#]),
        (
            "ipvs: {syncPeriod: half an hour}",
            &[r#"ipvs.syncPeriod: "half an hour" is not a duration such as 5s or 1h30m"#],
        ),
        (
            "mode: ipvs\nipvs: {tcpTimeout: -1s, tcpFinTimeout: -1s, udpTimeout: -1s}",
            &[
                r#"ipvs.tcpTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
                r#"ipvs.tcpFinTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
                r#"ipvs.udpTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
            ],
        ),
        (
            "mode: ipvs\nipvs: {excludeCIDRs: [10.0.0.0/8, x]}",
            &[
                r#"ipvs.excludeCIDRs[1]: Invalid value: "x": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"#,
            ],
        ),
        ("ipvs: {excludeCIDRs: 10.0.0.0/8}", &[r#"ipvs.excludeCIDRs: "10.0.0.0/8" is not a list"#]),
        ("ipvs: {excludeCIDRs: [1]}", &["ipvs.excludeCIDRs[0]: 1 is not a string"]),
        ("oomScoreAdj: 1001", &["oomScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]"]),
        (
            "oomScoreAdj: -1001",
            &["oomScoreAdj: Invalid value: -1001: must be within the range [-1000, 1000]"],
        ),
        ("configSyncPeriod: -1s", &[r#"configSyncPeriod: Invalid value: "-1s": must be greater than 0"#]),
        (
            "conntrack: {maxPerCore: -1, min: -2, tcpEstablishedTimeout: -1s, tcpCloseWaitTimeout: -1s, udpTimeout: -1s, udpStreamTimeout: -1s}",
            &[
                "conntrack.maxPerCore: Invalid value: -1: must be greater than or equal to 0",
                "conntrack.min: Invalid value: -2: must be greater than or equal to 0",
                r#"conntrack.tcpEstablishedTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
                r#"conntrack.tcpCloseWaitTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
                r#"conntrack.udpTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
                r#"conntrack.udpStreamTimeout: Invalid value: "-1s": must be greater than or equal to 0"#,
            ],
        ),
        (
            "clientConnection: {burst: -5}",
            &["clientConnection.burst: Invalid value: -5: must be greater than or equal to 0"],
        ),
        (
            "bindAddress: 10.10.12.11:2000\nhealthzBindAddress: 0.0.0.0\nmetricsBindAddress: 127.0.0.1",
            &[
                r#"bindAddress: Invalid value: "10.10.12.11:2000": not a valid textual representation of an IP address"#,
            ],
        ),
        (
            "healthzBindAddress: localhost:10256",
            &[r#"healthzBindAddress: Invalid value: "localhost": must be a valid IP"#],
        ),
        (
            "healthzBindAddress: 0.0.0.0:70000",
            &[r#"healthzBindAddress: Invalid value: "70000": must be a valid port"#],
        ),
        (
            "metricsBindAddress: nowhere",
            &[r#"metricsBindAddress: Invalid value: "nowhere": must be IP:port"#],
        ),
        (
            "metricsBindAddress: 127.0.0.1:0",
            &[r#"metricsBindAddress: Invalid value: "0": must be a valid port"#],
        ),
        (
            "clusterCIDR: 10.0.0.0",
            &[
                r#"clusterCIDR: Invalid value: "10.0.0.0": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"#,
            ],
        ),
        (
            "clusterCIDR: 10.0.0.0/8,10.244.0.0/16",
            &[
                r#"clusterCIDR: Invalid value: "10.0.0.0/8,10.244.0.0/16": must be either a single CIDR or a dual-stack pair of CIDRs (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)"#,
            ],
        ),
        (
            "clusterCIDR: 10.0.0.0/8,fd00::/8,fd01::/16",
            &[
                r#"clusterCIDR: Invalid value: "10.0.0.0/8,fd00::/8,fd01::/16": must be either a single CIDR or a dual-stack pair of CIDRs (e.g. 10.100.0.0/16,fde4:8dba:82e1::/48)"#,
            ],
        ),
        (
            "nodePortAddresses: [10.0.0.0/8, primary]",
            &[r#"nodePortAddresses[1]: Invalid value: "primary": can't use both 'primary' and CIDRs"#],
        ),
        (
            "nodePortAddresses: [10.0.0.1]",
            &[
                r#"nodePortAddresses[0]: Invalid value: "10.0.0.1": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"#,
            ],
        ),
        (
            "detectLocalMode: Guess",
            &[
                r#"detectLocalMode: Invalid value: "Guess": must be ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix or blank"#,
            ],
        ),
        (
            "detectLocalMode: BridgeInterface",
            &[r#"detectLocal.bridgeInterface: Invalid value: "": must not be empty"#],
        ),
        (
            "detectLocalMode: InterfaceNamePrefix",
            &[r#"detectLocal.interfaceNamePrefix: Invalid value: "": must not be empty"#],
        ),
        (
            "portRange: 2000-300",
            &[r#"portRange: Invalid value: "2000-300": must be a valid port range (e.g. 300-2000)"#],
        ),
        (
            "showHiddenMetricsForVersion: latest",
            &[
                r#"showHiddenMetricsForVersion: Invalid value: "latest": must be omitted or a version such as 1.35"#,
            ],
        ),
        (
            "logging: {format: xml, verbosity: 3000000000}",
            &[
                r#"logging.format: Invalid value: "xml": must be text or json"#,
                "logging.verbosity: Invalid value: 3000000000: must be less than or equal to 2147483647",
            ],
        ),
        (
            "logging: {format: json, vmodule: [{filePattern: \"a=b\", verbosity: 1}, {}]}",
            &[
                "logging.vmodule: Invalid value: a list: only supported for text log format",
                r#"logging.vmodule[0].filePattern: Invalid value: "a=b": must not contain equal sign or comma"#,
                r#"logging.vmodule[1].filePattern: Invalid value: "": must not be empty"#,
            ],
        ),
        (
            "logging: {options: {text: {infoBufferSize: big}}}",
            &[r#"logging.options.text.infoBufferSize: "big" is not a quantity such as 64Mi"#],
        ),
        (
            "logging: {flushFrequency: soon}",
            &[r#"logging.flushFrequency: "soon" is not a duration such as 5s or 1h30m"#],
        ),
        ("featureGates: {A: maybe}", &[r#"featureGates.A: "maybe" is not true or false"#]),
    ];
    for (line, want) in cases {
        let error = read(&format!("{HEAD}{line}\n")).expect_err(line);
        let want: Vec<String> =
            want.iter().map(|what| format!("FILE: KubeProxyConfiguration.{what}")).collect();
        assert_eq!(error.lines().collect::<Vec<_>>(), want, "{line}");
    }
}

/// What looks odd and is allowed.
#[test]
fn accepted() {
    let cases = [
        "mode: auto",
        "mode: ebpf",
        "mode: null",
        "iptables: null",
        "iptables: {masqueradeBit: 0}",
        "iptables: {masqueradeBit: 14.0}",
        "iptables: {syncPeriod: null}",
        "mode: nftables\nipvs: {syncPeriod: -1s, excludeCIDRs: [x]}",
        "mode: ipvs\niptables: {syncPeriod: 1s, minSyncPeriod: 5s}\nnftables: {masqueradeBit: 99}",
        "mode: ipvs\nipvs: {scheduler: nobody-knows-it}",
        "detectLocalMode: NodeCIDR\nclusterCIDR: nonsense",
        "clusterCIDR: 10.244.0.0/16, fd00::/56",
        "clusterCIDR: 010.244.000.0/16",
        "nodePortAddresses: []",
        "conntrack: {tcpEstablishedTimeout: 0s}",
        "healthzBindAddress: \"[::1]:80\"",
        "healthzBindAddress: \"::1\"",
        "logging: {format: json}",
        "featureGates: {NobodyKnowsIt: true}",
        "enableProfiling: yes",
        "oomScoreAdj: -1000",
    ];
    for line in cases {
        let loaded = read(&format!("{HEAD}{line}\n")).expect(line);
        assert_eq!(loaded.warnings, [""; 0], "{line}");
    }
    let meant = |line: &str| read(&format!("{HEAD}{line}\n")).expect(line).configuration;
    let cidrs =
        |cidrs: &[&str]| cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<model::Prefix>>();
    assert_eq!(
        meant("clusterCIDR: 10.244.0.0/16,fd00::/56").detect_local,
        DetectLocal::ClusterCidr(cidrs(&["10.244.0.0/16", "fd00::/56"]))
    );
    assert_eq!(meant("nodePortAddresses: [primary]").node_port_addresses, NodePortAddresses::Primary);
    assert_eq!(
        meant("nodePortAddresses: [192.0.2.0/24]").node_port_addresses,
        NodePortAddresses::Cidrs(cidrs(&["192.0.2.0/24"]))
    );
    assert_eq!(meant("conntrack: {tcpEstablishedTimeout: 0s}").conntrack.tcp_established_timeout, None);
    assert_eq!(meant("conntrack: {maxPerCore: 0}").conntrack.max(4), None);
    assert_eq!(meant("bindAddress: \"::\"").metrics_address.to_string(), "[::1]:10249");
    // A section that its mode does not use gives way to the default where it makes no sense.
    assert_eq!(meant("mode: ipvs\nnftables: {masqueradeBit: 99}").nftables.masquerade_bit, 14);
}

#[test]
fn not_a_configuration() {
    let cases = [
        ("", "FILE: no document of kind KubeProxyConfiguration in it"),
        ("---\n# nothing\n", "FILE: no document of kind KubeProxyConfiguration in it"),
        ("just text", "FILE: \"just text\", not a configuration"),
        ("[]", "FILE: a list, not a configuration"),
        ("mode: ipvs", "FILE: kind: missing"),
        ("kind: KubeProxyConfiguration", "FILE: apiVersion: missing"),
        (
            "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1",
            "FILE: kind: \"KubeletConfiguration\" is not KubeProxyConfiguration or PortolanConfiguration",
        ),
        (
            "kind: KubeProxyConfiguration\napiVersion: componentconfig/v1alpha1",
            "FILE: apiVersion: \"componentconfig/v1alpha1\" of KubeProxyConfiguration is not kubeproxy.config.k8s.io/v1alpha1",
        ),
        ("a: b: c", "FILE: line 1: mapping values are not allowed in this context"),
        ("a: 1\nb: [", "FILE: line 2: unclosed bracket '['"),
        ("{\"kind\": \"KubeProxyConfiguration\",", "FILE: line 1: unclosed bracket '{'"),
    ];
    for (text, want) in cases {
        assert_eq!(read(text).expect_err(text), want);
    }
    let twice = format!("{HEAD}---\n{HEAD}");
    assert_eq!(read(&twice).unwrap_err(), "FILE: more than one document of kind KubeProxyConfiguration");
    let missing = load(Path::new("/nonexistent/config.conf")).unwrap_err();
    assert_eq!(missing.to_string(), "read configuration /nonexistent/config.conf");
}

#[test]
fn json() {
    let text = r#"{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
	"mode": "nftables", "unknown": 1, "mode": "ipvs"}"#;
    let loaded = read(text).unwrap();
    assert_eq!(loaded.configuration.mode, Mode::Ipvs);
    assert_eq!(
        loaded.warnings,
        [
            "FILE: unknown field KubeProxyConfiguration.unknown",
            "FILE: field KubeProxyConfiguration.mode is given twice; the last counts"
        ]
    );
}

#[test]
fn our_own_document() {
    let ours = "apiVersion: portolan.dev/v1alpha1\nkind: PortolanConfiguration\n";
    let loaded = read(&format!("{HEAD}mode: ipvs\n---\n{ours}ipvs: {{addresses: addresses}}\n")).unwrap();
    assert_eq!(loaded.portolan.ipvs.addresses, IpvsAddresses::Addresses);
    assert_eq!(loaded.configuration.mode, Mode::Ipvs);
    assert_eq!(read(HEAD).unwrap().portolan.ipvs.addresses, IpvsAddresses::Routes);
    assert_eq!(read(ours).unwrap().configuration, Configuration::default());
    let drained = |text: &str| {
        read(&format!("{HEAD}---\n{ours}{text}")).map(|loaded| loaded.portolan.ipvs.drain_limit.0)
    };
    assert_eq!(drained("").unwrap().to_string(), "15m0s");
    assert_eq!(drained("ipvs: {drainLimit: 90s}").unwrap().to_string(), "1m30s");
    assert_eq!(drained("ipvs: {drainLimit: 0s}").unwrap().to_string(), "0s");
    let aside =
        |text: &str| read(&format!("{HEAD}---\n{ours}{text}")).map(|loaded| loaded.portolan.set_aside);
    assert_eq!(aside("").unwrap(), SetAside::default());
    assert!(!aside("setAside: {enabled: false}").unwrap().enabled);
    let changed = aside("setAside: {probeTimeout: 200ms, hold: 1s, holdMax: 2m}").unwrap();
    assert_eq!(changed.probe_timeout.to_string(), "200ms");
    assert_eq!((changed.hold.to_string(), changed.hold_max.to_string()), ("1s".into(), "2m0s".into()));
    let cases = [
        (
            "setAside: {hold: 10m}",
            "FILE: PortolanConfiguration.setAside.hold: 10m0s is not between 0s and 5m0s",
        ),
        (
            "setAside: {probeTimeout: 1ms}",
            "FILE: PortolanConfiguration.setAside.probeTimeout: 1ms is not between 10ms and 2s",
        ),
        ("setAside: {on: true}", "FILE: unknown field PortolanConfiguration.setAside.on"),
        ("ipvs: {drainLimit: -1s}", "FILE: PortolanConfiguration.ipvs.drainLimit: -1s is less than nothing"),
        ("ipvs: {adresses: routes}", "FILE: unknown field PortolanConfiguration.ipvs.adresses"),
        (
            "ipvs: {addresses: both}",
            "FILE: PortolanConfiguration.ipvs.addresses: \"both\" is not routes or addresses",
        ),
        (
            "ipvs: {addresses: routes, addresses: routes}",
            "FILE: field PortolanConfiguration.ipvs.addresses is given twice; the last counts",
        ),
    ];
    for (line, want) in cases {
        assert_eq!(read(&format!("{HEAD}---\n{ours}{line}\n")).expect_err(line), want);
    }
}

/// Without bounds these would not end, or overflow the stack.
#[test]
fn bombs() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..30 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    let deep = format!("{HEAD}a: {}", "[".repeat(100_000));
    let json = format!("{{\"a\":{}", "[".repeat(100_000));
    for bomb in [laughs, deep, json] {
        read(&bomb).expect_err("a bomb");
    }
}
