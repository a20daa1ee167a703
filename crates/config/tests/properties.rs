//! Whatever is in a file, reading it ends, and what is read means the same when it is written.

use proptest::prelude::*;

/// Lines that lead deep into the reader.
fn line() -> impl Strategy<Value = String> {
    let names = proptest::sample::select(
        &[
            "mode",
            "iptables",
            "ipvs",
            "nftables",
            "conntrack",
            "logging",
            "clusterCIDR",
            "nodePortAddresses",
            "detectLocalMode",
            "bindAddress",
            "healthzBindAddress",
            "metricsBindAddress",
            "oomScoreAdj",
            "featureGates",
            "hostnameOverride",
            "portRange",
            "clientConnection",
            "configSyncPeriod",
            "other",
        ][..],
    );
    let values = proptest::sample::select(
        &[
            "ipvs",
            "null",
            "5s",
            "-1s",
            "10.0.0.0/8",
            "[primary]",
            "{syncPeriod: 5s}",
            "{masqueradeBit: 3}",
            "{maxPerCore: 5}",
            "{A: true}",
            "1",
            "-1.5",
            "\"::\"",
            "::1",
            "[10.0.0.0/8, fd00::/8]",
            "yes",
            "{}",
            "[]",
            "{qps: 0.1, burst: 3}",
            "{vmodule: [{filePattern: x}]}",
            "{flushFrequency: 7}",
            "NodeCIDR",
            "'a: b'",
        ][..],
    );
    prop_oneof![
        8 => (names, values).prop_map(|(name, value)| format!("{name}: {value}\n")),
        1 => "\\PC{0,10}\n",
        1 => Just("---\n".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        config::fuzz(&bytes);
    }

    #[test]
    fn any_lines(lines in proptest::collection::vec(line(), 0..6)) {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        config::fuzz(format!("{head}{}", lines.concat()).as_bytes());
    }
}
