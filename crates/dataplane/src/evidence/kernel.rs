//! The table in the kernel: installing it, looking at what it noted, keeping who is set aside.

use super::cases::{Cases, Known};
use super::ruleset::{ASIDE, ASKED, ASKED_FOR, REFUSED, TABLE, program};
use crate::program::{Installed, install, needs_new_table, table};
use crate::write::{address_len, octets};
use crate::{Error, Mode};
use aside::{BackendKey, Sign};
use model::{Family, Protocol};
use netlink::conntrack::{self, Detail, STATUS_SEEN_REPLY, Tuple};
use netlink::nftables::{self as nft, Batch, Element, Table, userdata};
use netlink::{Netfilter, Socket};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A sign against a backend, or what may be one: the kernel does not know who is a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub backend: BackendKey,
    /// What.
    pub sign: Sign,
}

/// A backend that is set aside, and a word on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Which.
    pub backend: BackendKey,
    /// The word.
    pub word: String,
}

/// A way to the tables of all families.
#[derive(Debug)]
pub struct Evidence {
    socket: Socket<Netfilter>,
    families: Vec<Family>,
    ipvs: bool,
    cases: Cases,
}

impl Evidence {
    /// Opens a way to the tables in this thread's network namespace; touches nothing yet.
    pub fn open(families: &[Family], mode: Mode) -> Result<Evidence, Error> {
        let (socket, families, ipvs) = (Socket::open()?, families.to_vec(), mode == Mode::Ipvs);
        Ok(Evidence { socket, families, ipvs, cases: Cases::default() })
    }

    /// Puts the program right, and says what that took.
    pub fn install(&mut self) -> Result<Vec<String>, Error> {
        let mut said = Vec::new();
        for family in self.families.clone() {
            let table = table(family, TABLE);
            let program = program(family, self.ipvs);
            let exists = self.exists(table)?;
            let mut batch = Batch::new();
            let mut installed = match exists {
                true => Installed::read(&mut self.socket, table)?,
                false => Installed::default(),
            };
            if exists && needs_new_table(&installed, &program) {
                batch.delete_table(table);
                self.send(&mut batch, table)?;
                batch.clear();
                installed = Installed::default();
            }
            batch.add_table(table, &[]);
            let steps = install(table, &installed, &program, &mut batch);
            if !exists || !steps.is_empty() {
                self.send(&mut batch, table)?;
                said.extend(steps);
            }
        }
        Ok(said)
    }

    /// Takes the tables away, and says which there were.
    pub fn remove(&mut self) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for family in self.families.clone() {
            let table = table(family, TABLE);
            if self.exists(table)? {
                let mut batch = Batch::new();
                batch.delete_table(table);
                self.send(&mut batch, table)?;
                removed.push(format!("table {table}"));
            }
        }
        Ok(removed)
    }

    /// What stands against anybody at the moment. Cheap: no more is noted than a sample, and nearly all of
    /// that was answered.
    pub fn look(&mut self) -> Result<Vec<Seen>, Error> {
        let (mut seen, mut noted) = (Vec::new(), Vec::new());
        for family in &self.families {
            let table = table(*family, TABLE);
            nft::peek_elements(&mut self.socket, table, REFUSED, |element| {
                let refused = |backend| Seen { backend, sign: Sign::Refused };
                seen.extend(read_backend(*family, element.key).map(refused));
            })?;
            nft::peek_elements(&mut self.socket, table, ASKED, |element| {
                let asked = |flow| (flow, age(&element, ASKED_FOR));
                noted.extend(read_flow(*family, element.key).map(asked));
            })?;
        }
        let socket = &mut self.socket;
        self.cases.look(Instant::now(), &noted, |flow| ask(socket, flow))?;
        seen.extend(self.cases.open().map(|backend| Seen { backend, sign: Sign::Unanswered }));
        Ok(seen)
    }

    /// Who is kept there as set aside.
    pub fn noted(&mut self) -> Result<Vec<Noted>, Error> {
        let mut noted = Vec::new();
        for family in &self.families {
            let table = table(*family, TABLE);
            let read = nft::elements(&mut self.socket, table, ASIDE, Vec::new, |all, element| {
                let word = userdata::read_comment(element.userdata).unwrap_or_default().to_owned();
                all.extend(read_backend(*family, element.key).map(|backend| Noted { backend, word }));
            });
            match read {
                Ok(all) => noted.extend(all),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(noted)
    }

    /// Keeps these as set aside, and no others.
    pub fn note(&mut self, noted: &[Noted]) -> Result<(), Error> {
        let has = self.noted()?;
        for family in self.families.clone() {
            let table = table(family, TABLE);
            let of_family = |noted: &&Noted| Family::of(noted.backend.at.ip()) == family;
            let gone: Vec<_> = has.iter().filter(of_family).filter(|one| !noted.contains(one)).collect();
            let new: Vec<_> = noted.iter().filter(of_family).filter(|one| !has.contains(one)).collect();
            if gone.is_empty() && new.is_empty() {
                continue;
            }
            let mut batch = Batch::new();
            batch.delete_elements(table, ASIDE, |w| gone.iter().for_each(|one| w.key(&key(&one.backend))));
            batch.add_elements(table, ASIDE, |w| {
                for one in new {
                    let comment = userdata::comment(&one.word);
                    let key = key(&one.backend);
                    w.element(&Element { key: &key, userdata: &comment, ..Element::default() });
                }
            });
            self.send(&mut batch, table)?;
        }
        Ok(())
    }

    fn exists(&mut self, table: Table<'_>) -> Result<bool, Error> {
        let tables = nft::tables(&mut self.socket)?;
        Ok(tables.iter().any(|t| t.family == table.family && t.name == table.name))
    }

    fn send(&mut self, batch: &mut Batch, table: Table<'_>) -> Result<(), Error> {
        self.socket.make_room(batch.byte_len());
        let doing = format_args!("change nftables table {table}");
        Ok(batch.commit(&mut self.socket, &doing, None)?)
    }
}

/// A backend as a key: address, protocol and port, each padded to four bytes.
fn key(backend: &BackendKey) -> Vec<u8> {
    let BackendKey { protocol, at } = backend;
    let mut key = octets(at.ip());
    key.extend([protocol.number(), 0, 0, 0]);
    key.extend(at.port().to_be_bytes());
    key.extend([0, 0]);
    key
}

/// The same read back, and how long it is.
fn read_backend(family: Family, key: &[u8]) -> Option<BackendKey> {
    let (address, rest) = key.split_at_checked(address_len(family))?;
    let address = read_address(address)?;
    let [protocol, _, _, _, high, low, ..] = *rest else { return None };
    let protocol = Protocol::from_number(protocol)?;
    Some(BackendKey { protocol, at: SocketAddr::new(address, u16::from_be_bytes([high, low])) })
}

/// A connection of TCP as a key: addresses and ports, each padded to four bytes.
fn read_flow(family: Family, key: &[u8]) -> Option<Tuple> {
    let (source, rest) = key.split_at_checked(address_len(family))?;
    let (destination, rest) = rest.split_at_checked(address_len(family))?;
    let [source_high, source_low, _, _, high, low, ..] = *rest else { return None };
    Some(Tuple {
        source: read_address(source)?,
        destination: read_address(destination)?,
        protocol: Protocol::Tcp.number(),
        detail: Detail::Ports {
            source: u16::from_be_bytes([source_high, source_low]),
            destination: u16::from_be_bytes([high, low]),
        },
    })
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// How long ago an element was added that stands for so long.
fn age(element: &Element<'_>, stands: Duration) -> Duration {
    stands.saturating_sub(element.expiration.unwrap_or(stands))
}

/// What the connection tracker knows of a connection. Where it has zones, Services are in the first.
fn ask(socket: &mut Socket<Netfilter>, flow: &Tuple) -> Result<Known, netlink::Error> {
    let Some(found) = conntrack::find(socket, flow, 0)? else { return Ok(None) };
    let Detail::Ports { source: port, .. } = found.reply.detail else { return Ok(None) };
    let at = SocketAddr::new(found.reply.source, port);
    Ok(Some((BackendKey { protocol: Protocol::Tcp, at }, found.status & STATUS_SEEN_REPLY != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for (at, protocol) in [("10.1.2.3:8080", Protocol::Tcp), ("[fd00::1]:53", Protocol::Udp)] {
            let backend = BackendKey { protocol, at: at.parse().unwrap() };
            let family = Family::of(backend.at.ip());
            assert_eq!(read_backend(family, &key(&backend)), Some(backend));
        }
        let bytes = [10, 0, 0, 1, 10, 96, 0, 10, 0x82, 0x35, 0, 0, 0, 80, 0, 0];
        let flow = read_flow(Family::V4, &bytes).unwrap();
        assert_eq!((flow.source, flow.destination), ([10, 0, 0, 1].into(), [10, 96, 0, 10].into()));
        assert_eq!(flow.detail, Detail::Ports { source: 33333, destination: 80 });
        let element = Element { expiration: Some(Duration::from_millis(950)), ..Element::default() };
        assert_eq!(age(&element, ASKED_FOR), Duration::from_millis(50));
    }

    #[test]
    fn foreign_keys_are_passed_over() {
        for bytes in [&[][..], &[1, 2, 3], &[10, 0, 0, 1, 99, 0, 0, 0, 0, 80, 0, 0, 1, 0, 0, 0]] {
            assert_eq!(read_backend(Family::V4, bytes), None);
        }
        for bytes in [&[][..], &[1, 2, 3], &[0; 12]] {
            assert_eq!(read_flow(Family::V4, bytes), None);
        }
    }
}
