//! Types, classes, response codes and flags: numbers with names.

use std::fmt;
use std::str::FromStr;

/// Numbers that have names, and print as those.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($number:ty), $prefix:literal: $($(#[$of:meta])* $constant:ident $text:literal = $value:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $number);

        #[allow(missing_docs, reason = "the names are those of the registry")]
        impl $name {
            $($(#[$of])* pub const $constant: $name = $name($value);)*

            /// Its name in the registry, where it has one that we know.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!($prefix, "{}"), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ();

            /// Reads a name, in any case, or the prefix and a number.
            fn from_str(text: &str) -> Result<Self, ()> {
                $(if text.eq_ignore_ascii_case($text) { return Ok($name($value)); })*
                let length = $prefix.len();
                match (text.get(..length), text.get(length..)) {
                    (Some(prefix), Some(number)) if prefix.eq_ignore_ascii_case($prefix) => {
                        number.parse().map($name).map_err(|_| ())
                    }
                    _ => Err(()),
                }
            }
        }
    };
}

numbers! {
    /// The type of a record, or one that is asked for.
    Type(u16), "TYPE":
    A "A" = 1, NS "NS" = 2, MD "MD" = 3, MF "MF" = 4, CNAME "CNAME" = 5, SOA "SOA" = 6, MB "MB" = 7,
    MG "MG" = 8, MR "MR" = 9, NULL "NULL" = 10, PTR "PTR" = 12, HINFO "HINFO" = 13, MINFO "MINFO" = 14,
    MX "MX" = 15, TXT "TXT" = 16, RP "RP" = 17, AFSDB "AFSDB" = 18, SIG "SIG" = 24, KEY "KEY" = 25,
    PX "PX" = 26, AAAA "AAAA" = 28, LOC "LOC" = 29, NXT "NXT" = 30, SRV "SRV" = 33, NAPTR "NAPTR" = 35,
    KX "KX" = 36, CERT "CERT" = 37, DNAME "DNAME" = 39, OPT "OPT" = 41, APL "APL" = 42, DS "DS" = 43,
    SSHFP "SSHFP" = 44, RRSIG "RRSIG" = 46, NSEC "NSEC" = 47, DNSKEY "DNSKEY" = 48, DHCID "DHCID" = 49,
    NSEC3 "NSEC3" = 50, NSEC3PARAM "NSEC3PARAM" = 51, TLSA "TLSA" = 52, SMIMEA "SMIMEA" = 53,
    CDS "CDS" = 59, CDNSKEY "CDNSKEY" = 60, OPENPGPKEY "OPENPGPKEY" = 61, CSYNC "CSYNC" = 62,
    ZONEMD "ZONEMD" = 63, SVCB "SVCB" = 64, HTTPS "HTTPS" = 65, SPF "SPF" = 99, TKEY "TKEY" = 249,
    TSIG "TSIG" = 250, IXFR "IXFR" = 251, AXFR "AXFR" = 252, MAILB "MAILB" = 253, ANY "ANY" = 255,
    URI "URI" = 256, CAA "CAA" = 257,
}

numbers! {
    /// The class of a record, or one that is asked for.
    Class(u16), "CLASS":
    IN "IN" = 1, CH "CH" = 3, HS "HS" = 4, NONE "NONE" = 254, ANY "ANY" = 255,
}

numbers! {
    /// How a question was answered; with EDNS it has twelve bits.
    Rcode(u16), "RCODE":
    NOERROR "NOERROR" = 0, FORMERR "FORMERR" = 1, SERVFAIL "SERVFAIL" = 2, NXDOMAIN "NXDOMAIN" = 3,
    NOTIMP "NOTIMP" = 4, REFUSED "REFUSED" = 5, YXDOMAIN "YXDOMAIN" = 6, YXRRSET "YXRRSET" = 7,
    NXRRSET "NXRRSET" = 8, NOTAUTH "NOTAUTH" = 9, NOTZONE "NOTZONE" = 10, BADVERS "BADVERS" = 16,
    BADKEY "BADKEY" = 17, BADTIME "BADTIME" = 18, BADMODE "BADMODE" = 19, BADNAME "BADNAME" = 20,
    BADALG "BADALG" = 21, BADTRUNC "BADTRUNC" = 22, BADCOOKIE "BADCOOKIE" = 23,
}

numbers! {
    /// What a message is for.
    Opcode(u8), "OPCODE":
    QUERY "QUERY" = 0, IQUERY "IQUERY" = 1, STATUS "STATUS" = 2, NOTIFY "NOTIFY" = 4, UPDATE "UPDATE" = 5,
}

/// The bits of a header's second word.
#[allow(missing_docs, reason = "the names are those of the RFCs")]
pub mod flags {
    pub const QR: u16 = 0x8000;
    pub const AA: u16 = 0x0400;
    pub const TC: u16 = 0x0200;
    pub const RD: u16 = 0x0100;
    pub const RA: u16 = 0x0080;
    pub const Z: u16 = 0x0040;
    pub const AD: u16 = 0x0020;
    pub const CD: u16 = 0x0010;
    /// Those that say how the question was asked, and come back in the answer.
    pub const ASKED: u16 = RD | CD;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!((Type::AAAA.to_string(), Type(4711).to_string()), ("AAAA".into(), "TYPE4711".into()));
        assert_eq!(("aaaa".parse(), "type65280".parse()), (Ok(Type::AAAA), Ok(Type(65280))));
        assert_eq!(
            ("TYPEx".parse::<Type>(), "TYP".parse::<Type>(), "".parse::<Type>()),
            (Err(()), Err(()), Err(()))
        );
        assert_eq!(Rcode(3841).to_string(), "RCODE3841");
    }
}
