//! What the kernel answers: the walk over messages and attributes, and the reading of nftables
//! expressions.

use netlink::attributes;
use netlink::message::messages as walk;
use netlink::nftables::{RuleInfo, userdata};

/// Family headers are at most this long (`rtmsg`, `ifinfomsg`, …).
const FAMILY_HEADERS: [usize; 4] = [0, 4, 12, 16];
/// The kernel nests no deeper than this in what we read.
const DEPTH_MAX: usize = 8;

/// A datagram.
pub(crate) fn messages(data: &[u8]) {
    for message in walk(data) {
        for header in FAMILY_HEADERS {
            visit(message.attributes(header), DEPTH_MAX);
        }
        expressions(message.payload);
    }
}

fn visit(of: netlink::Attributes<'_>, depth: usize) {
    for attribute in of {
        let _ = (attribute.u8(), attribute.be16(), attribute.be32(), attribute.be64(), attribute.str());
        let _ = (attribute.ne16(), attribute.ne32(), attribute.ne64());
        let _ = (userdata::read_comment(attribute.value), userdata::read_set_comment(attribute.value));
        if depth > 0 {
            visit(attribute.nested(), depth - 1);
        }
    }
}

/// Attributes, among which there may be expressions of rules.
pub(crate) fn expressions(data: &[u8]) {
    let read = |raw: &[u8]| {
        let rule = RuleInfo { chain: String::new(), handle: 0, userdata: Vec::new(), raw: raw.to_vec() };
        rule.expressions().iter().for_each(|expression| drop(expression.to_string()));
    };
    read(data);
    attributes(data).for_each(|attribute| read(attribute.value));
}
