//! How images and steps read, in `portolan plan` and in scenario files.

use super::image::{Config, Image, Server};
use super::steps::Step;
use std::fmt;

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scheduler)?;
        if self.fallback {
            f.write_str(" with fallback")?;
        }
        if let Some(seconds) = self.affinity_seconds {
            write!(f, " for {seconds}s")?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.config)?;
        for (slot, weight) in &self.backends {
            write!(f, " {slot}")?;
            if *weight != 1 {
                write!(f, " weight {weight}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Table(step) => fmt::Display::fmt(step, f),
            Step::AddServer(key, config) => write!(f, "+ server {key} {config}"),
            Step::EditServer(key, config) => write!(f, "~ server {key} {config}"),
            Step::RemoveServer(key) => write!(f, "- server {key}"),
            Step::AddBackend(key, slot, weight) => write!(f, "+ backend {key} {slot} weight {weight}"),
            Step::SetWeight(key, slot, weight) => write!(f, "~ backend {key} {slot} weight {weight}"),
            Step::RemoveBackend(key, slot) => write!(f, "- backend {key} {slot}"),
            Step::AddAddress(ip) => write!(f, "+ address {ip}"),
            Step::RemoveAddress(ip) => write!(f, "- address {ip}"),
        }
    }
}

/// One line an item, in an order that does not depend on how the image came about.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Image { table, servers, addresses } = self;
        for (key, server) in servers {
            writeln!(f, "server {key} {server}")?;
        }
        let mut addresses: Vec<_> = addresses.iter().collect();
        addresses.sort_unstable();
        for ip in addresses {
            writeln!(f, "address {ip}")?;
        }
        fmt::Display::fmt(table, f)
    }
}
