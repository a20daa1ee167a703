//! From a configuration, a mode and a node to what the plan needs to know: the one place where the
//! defaults that differ between modes are decided.

use crate::{Configuration, DetectLocal, Mode, NodePortAddresses};
use model::Name;
use plan::Settings;
use std::net::IpAddr;

/// What the plan needs to know. `mode` is the one in use, never [`Mode::Auto`]'s promise of one;
/// where it is that all the same, nftables' defaults hold. `interface_addresses` stand in for those
/// of a Node object that is not there.
pub fn settings(
    configuration: &Configuration,
    mode: Mode,
    node_name: Name,
    interface_addresses: Vec<IpAddr>,
) -> Settings {
    let bind = configuration.bind_address;
    let listed = &configuration.node_port_addresses;
    let maps = matches!(mode, Mode::Auto | Mode::NfTables | Mode::Ebpf);
    Settings {
        node_name,
        node_addresses: if bind.is_unspecified() { vec![] } else { vec![bind] },
        interface_addresses,
        detect_local: match &configuration.detect_local {
            DetectLocal::ClusterCidr(networks) => plan::DetectLocal::ClusterCidr(networks.clone()),
            DetectLocal::NodeCidr => plan::DetectLocal::NodeCidr,
            DetectLocal::BridgeInterface(name) => plan::DetectLocal::BridgeInterface(name.as_str().into()),
            DetectLocal::InterfaceNamePrefix(prefix) => {
                plan::DetectLocal::InterfaceNamePrefix(prefix.as_str().into())
            }
        },
        masquerade_all: match maps {
            true => configuration.nftables.masquerade_all,
            false => configuration.iptables.masquerade_all,
        },
        node_ports: match listed {
            NodePortAddresses::Default if maps => plan::NodePortAddresses::Primary,
            NodePortAddresses::Default => plan::NodePortAddresses::All,
            NodePortAddresses::Primary => plan::NodePortAddresses::Primary,
            NodePortAddresses::Cidrs(networks) => plan::NodePortAddresses::Networks(networks.clone()),
        },
        // kube-proxy serves localhost in iptables mode only. Whoever comes from there misses it, so
        // here every mode does, unless the addresses are listed and localhost is not among them.
        localhost_node_ports: configuration.iptables.localhost_node_ports
            && *listed != NodePortAddresses::Primary,
        ignore_external_ips: configuration.feature_gates.get("AllowServiceExternalIPs") == Some(&false),
        owns_addresses: mode == Mode::Ipvs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::NodePortAddresses::{All, Networks, Primary};

    #[test]
    fn node_ports_by_mode() {
        let networks = || vec!["10.0.0.0/8".parse().expect("a network")];
        let cases = [
            (Mode::NfTables, NodePortAddresses::Default, Primary, true),
            (Mode::Auto, NodePortAddresses::Default, Primary, true),
            (Mode::Ipvs, NodePortAddresses::Default, All, true),
            (Mode::IpTables, NodePortAddresses::Default, All, true),
            (Mode::IpTables, NodePortAddresses::Primary, Primary, false),
            (Mode::NfTables, NodePortAddresses::Cidrs(networks()), Networks(networks()), true),
        ];
        for (mode, node_port_addresses, node_ports, localhost) in cases {
            let configuration = Configuration { node_port_addresses, ..Configuration::default() };
            let settings = settings(&configuration, mode, "n".into(), vec![]);
            assert_eq!(
                (settings.node_ports, settings.localhost_node_ports),
                (node_ports, localhost),
                "{mode}"
            );
        }
    }

    #[test]
    fn what_the_file_says_of_the_node() {
        let configuration = Configuration {
            bind_address: IpAddr::from([10, 0, 0, 7]),
            detect_local: DetectLocal::InterfaceNamePrefix("veth".into()),
            feature_gates: [("AllowServiceExternalIPs".to_owned(), false)].into(),
            ..Configuration::default()
        };
        let settings = settings(&configuration, Mode::Ipvs, "n".into(), vec![]);
        assert_eq!(settings.node_addresses, [IpAddr::from([10, 0, 0, 7])]);
        assert_eq!(settings.detect_local, plan::DetectLocal::InterfaceNamePrefix("veth".into()));
        assert!(settings.ignore_external_ips);
    }
}
