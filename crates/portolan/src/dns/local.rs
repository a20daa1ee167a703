//! `names: local`: this node answers for the cluster DNS Service's address itself. Which address that
//! is, is decided here, and when queries are led here; how, `dataplane::steer` knows.

use crate::error::Error;
use config::PortolanNames;
use dataplane::steer::Steer;
use model::{Cluster, Family, ObjectName};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use telemetry::{error, info};

/// The Service that clusters have had for it ever since.
const SERVICE: &str = "kube-system/kube-dns";
/// Addresses that nobody else has: link-local for IPv4, beside the one that NodeLocal DNSCache uses, and
/// unique local for IPv6.
const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 53);
const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x6f72, 0x746f, 0, 0, 0, 0, 0x53);
/// So long packets may be on their way to us that were led here before we said no more.
const SETTLE: Duration = Duration::from_millis(50);

/// What is to be answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    service: ObjectName,
    /// Its addresses, if they are not the Service's.
    cluster_ips: Vec<IpAddr>,
    addresses: Vec<IpAddr>,
}

impl Options {
    /// What the configuration says.
    pub(crate) fn read(names: &PortolanNames, families: &[Family]) -> Result<Options, Error> {
        let wrong = |field: &str, value: &str, what: &str| {
            Error::Flags(format!("names.{field}: {value:?} is not {what}"))
        };
        let addresses = |field: &str, texts: &[String]| -> Result<Vec<IpAddr>, Error> {
            let all: Result<Vec<IpAddr>, Error> =
                texts.iter().map(|text| text.parse().map_err(|_| wrong(field, text, "an address"))).collect();
            let all = all?;
            match Family::ALL.iter().any(|f| all.iter().filter(|ip| Family::of(**ip) == *f).count() > 1) {
                true => Err(Error::Flags(format!("names.{field}: at most one address a family"))),
                false => Ok(all),
            }
        };
        let service = if names.service.is_empty() { SERVICE } else { &names.service };
        let name =
            service.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
        let (namespace, name) = name.ok_or_else(|| wrong("service", service, "NAMESPACE/NAME"))?;
        let mut local = addresses("addresses", &names.addresses)?;
        if local.is_empty() {
            local = vec![ADDRESS_V4.into(), ADDRESS_V6.into()];
            local.retain(|ip| families.contains(&Family::of(*ip)));
        }
        Ok(Options {
            service: ObjectName { namespace: namespace.into(), name: name.into() },
            cluster_ips: addresses("clusterIPs", &names.cluster_ips)?,
            addresses: local,
        })
    }

    /// Where we listen.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

/// The addresses that are ours where nothing else is configured, for `cleanup`.
pub(crate) fn default_addresses() -> [IpAddr; 2] {
    [ADDRESS_V4.into(), ADDRESS_V6.into()]
}

/// The way to the server.
pub(crate) struct Local {
    options: Options,
    steer: Mutex<Steer>,
}

impl Local {
    /// Makes the addresses ours.
    pub(crate) fn open(options: Options) -> Result<Local, Error> {
        let mut steer = Steer::open(&options.addresses)?;
        if !options.cluster_ips.is_empty() {
            tell(&steer.lead(&options.cluster_ips)?);
        }
        Ok(Local { options, steer: Mutex::new(steer) })
    }

    fn lock(&self) -> MutexGuard<'_, Steer> {
        self.steer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the Service whose addresses we answer for.
    pub(crate) fn is_about(&self, service: &ObjectName) -> bool {
        self.options.cluster_ips.is_empty() && *service == self.options.service
    }

    /// The Service is as the cluster has it.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        if !self.options.cluster_ips.is_empty() {
            return;
        }
        let ips = cluster.service(&self.options.service).map(|service| service.cluster_ips.to_vec());
        match self.lock().lead(&ips.unwrap_or_default()) {
            Ok(said) => tell(&said),
            Err(error) => failed(&error),
        }
    }

    /// There will soon be no server: what is new goes elsewhere, what has come can still be answered.
    pub(crate) fn withdraw(&self) {
        match self.lock().withdraw() {
            Ok(()) => std::thread::sleep(SETTLE),
            Err(error) => failed(&error),
        }
    }

    /// There will soon be one again.
    pub(crate) fn resume(&self) {
        if let Err(error) = self.lock().resume() {
            failed(&error);
        }
    }

    /// Puts right what somebody changed.
    pub(crate) fn look(&self) {
        match self.lock().look() {
            Ok(said) => tell(&said),
            Err(error) => failed(&error),
        }
    }

    /// Takes the way away.
    pub(crate) fn remove(&self) {
        if let Err(error) = Steer::remove(&self.options.addresses) {
            failed(&error);
        }
    }
}

fn tell(said: &[String]) {
    said.iter().for_each(|line| info!("names: {line}"));
}

fn failed(error: &dataplane::Error) {
    error!("names: cannot lead queries to this node's server: {}", crate::output::chain(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_configuration_says() {
        let read = |names: &PortolanNames| Options::read(names, &[Family::V4]);
        let options = read(&PortolanNames::default()).expect("good");
        assert_eq!(options.addresses, [IpAddr::from(ADDRESS_V4)]);
        assert_eq!(options.service.to_string(), SERVICE);
        let text = |text: &str| vec![text.to_owned()];
        for (names, what) in [
            (
                PortolanNames { service: "dns".into(), ..Default::default() },
                "names.service: \"dns\" is not NAMESPACE/NAME",
            ),
            (
                PortolanNames { cluster_ips: text("x"), ..Default::default() },
                "names.clusterIPs: \"x\" is not an address",
            ),
            (
                PortolanNames { addresses: vec!["10.0.0.1".into(), "10.0.0.2".into()], ..Default::default() },
                "names.addresses: at most one address a family",
            ),
        ] {
            assert_eq!(read(&names).map_err(|error| error.to_string()), Err(what.to_owned()));
        }
    }
}
