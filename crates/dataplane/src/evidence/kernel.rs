//! The table in the kernel: installing it, looking at what it noted, keeping who is set aside.

use super::ruleset::{ASIDE, SIGN_FOR, SIGNS, TABLE, program, sign};
use crate::program::{Installed, install, needs_new_table, table};
use crate::write::{address_len, octets};
use crate::{Error, Mode};
use aside::{BackendKey, Sign};
use model::{Family, Protocol};
use netlink::nftables::{self as nft, Batch, Element, Table, userdata};
use netlink::{Netfilter, Socket};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A sign against a backend, or what may be one: the kernel does not know who is a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub backend: BackendKey,
    /// What.
    pub sign: Sign,
    /// Since when it stands.
    pub age: Duration,
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
}

impl Evidence {
    /// Opens a way to the tables in this thread's network namespace; touches nothing yet.
    pub fn open(families: &[Family], mode: Mode) -> Result<Evidence, Error> {
        Ok(Evidence { socket: Socket::open()?, families: families.to_vec(), ipvs: mode == Mode::Ipvs })
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

    /// What stands against anybody at the moment. Cheap: nearly always there is nothing.
    pub fn look(&mut self) -> Result<Vec<Seen>, Error> {
        let mut seen = Vec::new();
        for family in &self.families {
            nft::peek_elements(&mut self.socket, table(*family, TABLE), SIGNS, |element| {
                seen.extend(read(*family, &element));
            })?;
        }
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
    let address: IpAddr = match family {
        Family::V4 => <[u8; 4]>::try_from(address).ok()?.into(),
        Family::V6 => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    let [protocol, _, _, _, high, low, ..] = *rest else { return None };
    let protocol = Protocol::from_number(protocol)?;
    Some(BackendKey { protocol, at: SocketAddr::new(address, u16::from_be_bytes([high, low])) })
}

fn read(family: Family, element: &Element<'_>) -> Option<Seen> {
    let backend = read_backend(family, element.key)?;
    let kind = element.key.get(address_len(family) + 8..)?;
    let sign = sign(u32::from_ne_bytes(kind.try_into().ok()?))?;
    let age = SIGN_FOR.saturating_sub(element.expiration.unwrap_or(SIGN_FOR));
    Some(Seen { backend, sign, age })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for (at, protocol) in [("10.1.2.3:8080", Protocol::Tcp), ("[fd00::1]:53", Protocol::Udp)] {
            let backend = BackendKey { protocol, at: at.parse().unwrap() };
            let family = Family::of(backend.at.ip());
            let mut bytes = key(&backend);
            assert_eq!(read_backend(family, &bytes), Some(backend));
            assert_eq!(read(family, &Element { key: &bytes, ..Element::default() }), None);
            bytes.extend(2u32.to_ne_bytes());
            let expiration = Some(Duration::from_millis(2900));
            let seen = read(family, &Element { key: &bytes, expiration, ..Element::default() });
            let age = Duration::from_millis(100);
            assert_eq!(seen, Some(Seen { backend, sign: Sign::Refused, age }));
        }
    }

    #[test]
    fn foreign_keys_are_passed_over() {
        for bytes in [&[][..], &[1, 2, 3], &[10, 0, 0, 1, 99, 0, 0, 0, 0, 80, 0, 0, 1, 0, 0, 0]] {
            assert_eq!(read(Family::V4, &Element { key: bytes, ..Element::default() }), None);
        }
    }
}
