//! `names: local`: a node answers for the cluster DNS Service's address itself, and the cluster's pods do
//! whenever it does not. Beside IPVS: `names_local_ipvs.rs`.

mod common;

use common::local::{
    NODE, PODS, WHO, cluster, goes_back_and_forth, meanwhile, pause, until_answered_by, who,
};

#[test]
fn beside_nftables() {
    goes_back_and_forth("nftables");
}

#[test]
fn beside_iptables() {
    goes_back_and_forth("iptables");
}

#[test]
fn nobody_is_led_to_a_server_that_does_not_know_the_cluster() {
    let (mut bench, _pods) = cluster("nftables");
    // This one's own cluster never comes.
    let text = format!(
        ".:53 {{\n    kubernetes cluster.local {{\n        endpoint http://127.0.0.1:1\n    }}\n    \
         hosts {{\n        {NODE} {WHO}\n    }}\n}}\n"
    );
    let corefile = bench.file("Corefile", &text).display().to_string();
    let configuration = format!(
        "apiVersion: portolan.dev/v1alpha1\nkind: PortolanConfiguration\n\
         names: {{corefile: {corefile}, local: true, clusterIPs: [10.96.0.53]}}\n"
    );
    let configuration = bench.file("portolan.conf", &configuration).display().to_string();
    let manifests = bench.manifests.display().to_string();
    bench.run("nftables", &["--manifests", &manifests, "--config", &configuration]);
    bench.until("the way is there", |bench| bench.tool("nft list tables").contains("portolan-names"));
    until_answered_by(&bench, PODS);
    let tally = meanwhile(&mut bench, |_| pause());
    assert_eq!((tally.lost, tally.answers.len()), (0, 1), "{tally:?}");
    assert!(tally.answers.contains_key(&who(PODS)), "{tally:?}");
}
