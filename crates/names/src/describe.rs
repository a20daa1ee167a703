//! What a question is about, in words: for logs and rewrites (`metadata`).

use crate::options::Options;
use crate::question::{Asks, Before};
use wire::Name;

/// What a name is about. Parts that a name does not have are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// `svc` or `pod`.
    pub kind: &'static str,
    /// The namespace.
    pub namespace: String,
    /// The Service, or the pod's address as the name has it.
    pub service: String,
    /// The endpoint.
    pub endpoint: String,
    /// The port's name.
    pub port: String,
    /// The protocol.
    pub protocol: String,
}

/// Takes a name apart; `None` where it is in none of the zones, or in one of addresses.
pub fn describe(options: &Options, name: &Name) -> Option<Described> {
    let lower = name.lowercase();
    let of = options.zone_of(&lower).filter(|of| !of.reverse)?;
    let before = Before::new(&lower, of.name.as_bytes().len())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(match before.asks(of.multicluster, options.zonal) {
        Asks::Namespace(namespace) => {
            Described { kind: "svc", namespace: text(namespace), ..Described::default() }
        }
        Asks::Pod { label, namespace } => Described {
            kind: "pod",
            namespace: text(namespace),
            service: text(label),
            ..Described::default()
        },
        Asks::Service(of) => Described {
            kind: "svc",
            namespace: text(of.namespace),
            service: text(of.service),
            endpoint: text(of.endpoint.unwrap_or_default()),
            port: text(of.port),
            protocol: text(of.protocol),
        },
        Asks::Apex | Asks::Empty | Asks::Version | Asks::Server => Described::default(),
        Asks::Nothing => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ZoneName;

    #[test]
    fn parts_of_names() {
        let zone: Name = "cluster.local".parse().unwrap();
        let options = Options::new(vec![ZoneName::new(&zone, false)]).unwrap();
        let parts = |text: &str| {
            let Described { kind, namespace, service, endpoint, port, protocol } =
                describe(&options, &text.parse().unwrap())?;
            Some([kind.to_owned(), namespace, service, endpoint, port, protocol].join(" "))
        };
        for (name, want) in [
            ("web.shop.svc.cluster.local", Some("svc shop web   ")),
            ("a.web.shop.svc.Cluster.local", Some("svc shop web a  ")),
            ("_http._tcp.web.shop.svc.cluster.local", Some("svc shop web  http tcp")),
            ("10-0-0-1.shop.pod.cluster.local", Some("pod shop 10-0-0-1   ")),
            ("cluster.local", Some("     ")),
            ("x.cluster.local", None),
            ("example.org", None),
        ] {
            assert_eq!(parts(name).as_deref(), want, "{name}");
        }
    }
}
