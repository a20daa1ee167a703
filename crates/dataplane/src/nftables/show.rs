//! An image read as Services, for `portolan show`.

use super::image::{Image, Jump, Key, Masquerading};
use crate::{ShownFrontend, ShownService, Slot};
use std::collections::BTreeMap;

/// The Services of an image, by name. What a virtual server of IPVS does, `server` tells: its real
/// servers, and for how long clients stay with theirs.
pub(crate) fn services(
    image: &Image,
    server: impl Fn(&Key) -> Option<(Vec<Slot>, Option<u32>)>,
) -> Vec<ShownService> {
    let mut services: BTreeMap<&str, Vec<ShownFrontend>> = BTreeMap::new();
    for (key, front) in &image.frontends {
        let pool = |id| {
            let mut slots: Vec<Slot> = image.pools.get(&id).cloned().unwrap_or_default();
            slots.retain(|slot| !slot.is_hole());
            slots.sort_unstable();
            slots
        };
        let (slots, seconds) = match front.last {
            Jump::Ipvs => server(key).unwrap_or_default(),
            _ => (pool(front.pool), None),
        };
        let (verdict, affinity_seconds) = match front.last {
            Jump::Ipvs => ("dnat", seconds.unwrap_or(0)),
            Jump::Pick { affinity_seconds, .. } => ("dnat", affinity_seconds),
            Jump::Reject => ("reject", 0),
            Jump::Drop | Jump::Sources | Jump::Inside => ("drop", 0),
        };
        let mut sources: Vec<_> =
            image.sources.iter().filter(|(other, _)| other == key).map(|(_, network)| *network).collect();
        sources.sort_unstable();
        services.entry(&front.label).or_default().push(ShownFrontend {
            at: key.at,
            protocol: key.protocol,
            verdict,
            backends: if verdict == "dnat" { slots } else { Vec::new() },
            backends_for_local_clients: image.inside.get(key).map(|inside| pool(inside.pool)),
            affinity_seconds: (affinity_seconds > 0).then_some(affinity_seconds),
            masquerade: match front.masquerading {
                Masquerading::Never => "never",
                Masquerading::OffCluster => "off-cluster",
                Masquerading::Always => "always",
                Masquerading::Node => "node",
            },
            sources: if front.first == Jump::Sources { sources } else { Vec::new() },
        });
    }
    let shown = services.into_iter().map(|(name, mut frontends)| {
        frontends.sort_by_key(|frontend| (frontend.at, frontend.protocol));
        ShownService { name: name.to_owned(), frontends }
    });
    shown.collect()
}
