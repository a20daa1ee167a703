//! `bind`: the addresses that a server block listens on.
//!
//! ```text
//! bind ADDRESS|INTERFACE … {
//!     except ADDRESS|INTERFACE …
//! }
//! ```

use crate::chain::Plugin;
use crate::corefile::{Error, Word};
use crate::setup::Setting;
use std::net::IpAddr;
use std::sync::Arc;

pub(super) fn set_up(setting: &mut Setting<'_>) -> Result<Option<Arc<dyn Plugin>>, Error> {
    let mut all = Vec::new();
    for line in setting.lines {
        let mut except = Vec::new();
        for option in &line.block {
            option.no_block()?;
            match option.name.text.as_str() {
                "except" => except.extend(addresses(option.at_least_one()?)?),
                _ => return Err(option.unknown_option("bind")),
            }
        }
        for address in addresses(line.at_least_one()?)? {
            if !except.contains(&address) && !all.contains(&address) {
                all.push(address);
            }
        }
        if all.is_empty() {
            return Err(line.error("no address is left to listen on"));
        }
    }
    setting.block.listen = all;
    Ok(None)
}

fn addresses(words: &[Word]) -> Result<Vec<IpAddr>, Error> {
    let mut all = Vec::new();
    for word in words {
        if let Ok(address) = word.text.parse::<IpAddr>() {
            // 0.0.0.0 and :: are what there is without `bind`, each for its family.
            all.push(address);
            continue;
        }
        let found = of_interface(&word.text).map_err(|error| word.error(error))?;
        if found.is_empty() {
            return Err(word.error("neither an address nor an interface with addresses"));
        }
        all.extend(found);
    }
    Ok(all)
}

/// The addresses of an interface, but for link-local ones of IPv6, which need their interface's
/// number to be listened on.
fn of_interface(name: &str) -> std::io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()?.filter(|interface| interface.interface_name == name) {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6()
            && !v6.ip().is_unicast_link_local()
        {
            found.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(found)
}
