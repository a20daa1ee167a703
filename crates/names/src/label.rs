//! What an endpoint is called within its Service.

use model::Endpoint;
use std::fmt::{self, Write};
use std::net::IpAddr;

/// The longest label.
pub(crate) const LABEL_MAX: usize = 63;

/// A label that has been put together.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    bytes: [u8; LABEL_MAX],
    length: usize,
}

impl Label {
    fn of(text: &[u8]) -> Label {
        let mut label = Label { bytes: [0; LABEL_MAX], length: 0 };
        label.push(text);
        label
    }

    /// Adds what fits.
    fn push(&mut self, text: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(text) {
            *place = *byte;
            self.length += 1;
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// The address with dashes. One that would end in a dash has a zero there.
    fn dashed(address: IpAddr) -> Label {
        let mut label = Label { bytes: [0; LABEL_MAX], length: 0 };
        // An address has at most 45 characters, and writing to memory does not fail.
        let _ = write!(label, "{address}");
        for byte in label.bytes.iter_mut().take(label.length) {
            if matches!(byte, b'.' | b':') {
                *byte = b'-';
            }
        }
        if label.as_bytes().last() == Some(&b'-') {
            if let Some(byte) = label.bytes.get_mut(label.length) {
                *byte = b'0';
            }
            label.length += 1;
        }
        label
    }
}

impl Write for Label {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// The names that an endpoint has of its own, the best first.
fn own(endpoint: &Endpoint, pod_names: bool) -> Option<&str> {
    let identity = endpoint.identity.as_ref()?;
    let pod =
        || identity.pod.as_deref().filter(|pod| pod_names && pod.len() <= LABEL_MAX && !pod.contains('.'));
    identity.hostname.as_deref().filter(|name| !name.is_empty()).or_else(pod)
}

/// What an endpoint is called.
pub(crate) fn label(endpoint: &Endpoint, pod_names: bool) -> Label {
    match own(endpoint, pod_names) {
        Some(name) => Label::of(name.as_bytes()),
        None => Label::dashed(endpoint.address),
    }
}

/// A label that is asked for. It is looked at once, and then held against many endpoints.
pub(crate) struct Wanted<'q> {
    text: &'q [u8],
    address: Option<IpAddr>,
}

impl<'q> Wanted<'q> {
    pub(crate) fn new(text: &'q [u8]) -> Wanted<'q> {
        Wanted { text, address: address_of(text) }
    }

    /// Whether an endpoint is called so.
    pub(crate) fn is(&self, endpoint: &Endpoint, pod_names: bool) -> bool {
        match own(endpoint, pod_names) {
            Some(name) => name.as_bytes().eq_ignore_ascii_case(self.text),
            // Other spellings of the same address are other names.
            None => {
                self.address == Some(endpoint.address)
                    && Label::dashed(endpoint.address).as_bytes().eq_ignore_ascii_case(self.text)
            }
        }
    }
}

/// The address that a label with dashes stands for: four numbers are one of IPv4.
pub(crate) fn address_of(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    if text.len() > LABEL_MAX || text.contains(['.', ':']) {
        return None;
    }
    let dashes = text.bytes().filter(|byte| *byte == b'-').count();
    let separator = if dashes == 3 && !text.contains("--") { b'.' } else { b':' };
    let mut bytes = [0; LABEL_MAX];
    let bytes = bytes.get_mut(..text.len())?;
    for (into, byte) in bytes.iter_mut().zip(text.bytes()) {
        *into = if byte == b'-' { separator } else { byte };
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_dashes() {
        for (text, dashed) in [
            ("10.0.0.1", "10-0-0-1"),
            ("fd00::1", "fd00--1"),
            ("fd00:1::", "fd00-1--0"),
            ("::1", "--1"),
            ("2001:db8:1:2:3:4:5:6", "2001-db8-1-2-3-4-5-6"),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Label::dashed(address).as_bytes(), dashed.as_bytes());
            assert_eq!(address_of(dashed.as_bytes()), Some(address));
        }
        for text in ["", "10-0-0", "10-0-0-256", "web", "10.0.0.1", "fd00:-1", "010-0-0-1"] {
            assert_eq!(address_of(text.as_bytes()), None, "{text}");
        }
    }
}
