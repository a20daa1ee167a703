//! ExternalName: a name for a name, as far as that leads within the zone.

use super::{Asked, Found};
use crate::question::{Asks, Before, Of};
use std::net::IpAddr;
use wire::{Name, Owner, Section, Type};

/// So many names may follow each other.
const LINKS_MAX: usize = 10;

impl Asked<'_> {
    /// A Service that is another name. `Err` leads out of the zone.
    pub(super) fn external(&mut self, of: &Of<'_>, target: &str, owner: Owner) -> Result<Found, Box<Name>> {
        // It has neither endpoints nor ports, and an address is no name.
        let plain = of.endpoint.is_none() && of.port.is_empty() && of.protocol.is_empty();
        let target = target.parse::<Name>().ok().filter(|_| plain && target.parse::<IpAddr>().is_err());
        let Some(target) = target.filter(|target| !target.is_root()) else { return Ok(Found::Absent) };
        match self.rtype {
            Type::CNAME => {
                self.reply.push_name(Section::Answer, owner, Type::CNAME, self.ttl_s, &target);
                Ok(Found::Exists)
            }
            Type::A | Type::AAAA => self.follow(target, owner),
            _ => Ok(Found::Exists),
        }
    }

    /// Follows a name to addresses. What leads nowhere leaves nothing in the answer.
    fn follow(&mut self, target: Name, owner: Owner) -> Result<Found, Box<Name>> {
        let links = self.reply.section(Section::Answer).filter(|record| record.rtype == Type::CNAME).count();
        let zone_bytes = self.of.name.as_bytes().len();
        let lower = target.lowercase();
        if links >= LINKS_MAX || self.leads_back(&lower) {
            self.reply.retain(|record| record.section != Section::Answer);
            return Ok(Found::Exists);
        }
        self.reply.push_name(Section::Answer, owner, Type::CNAME, self.ttl_s, &target);
        if !lower.is_in(&self.of.name) {
            return Err(Box::new(target));
        }
        let at = self.reply.own(&target);
        let found = match Before::new(&lower, zone_bytes) {
            Some(before) => match before.asks(self.of.multicluster, self.options.zonal) {
                Asks::Service(of) => self.service(&of, at)?,
                _ => Found::Absent,
            },
            None => Found::Absent,
        };
        let ends = self.reply.section(Section::Answer).any(|record| record.rtype == self.rtype);
        if found == Found::Absent || !ends {
            self.reply.retain(|record| record.section != Section::Answer);
        }
        Ok(Found::Exists)
    }

    /// Whether a name has been on the way already.
    fn leads_back(&self, target: &Name) -> bool {
        let mut names = self.reply.section(Section::Answer).filter_map(|record| self.reply.target(record));
        names.any(|name| name.is(target))
    }
}
