//! Expressions: the instructions of the kernel's packet program, as values. How they are written
//! is in `encode.rs`, how they are read in `decode.rs`.
//!
//! Values move through registers, sixteen of four bytes each; a longer value, or a concatenation,
//! takes as many in a row as it needs. From 6.9 on the kernel refuses a rule that loads from a
//! register which no earlier expression of the same rule has written.

use std::borrow::Cow;
use std::time::Duration;

use super::set::SetRef;

pub(super) const NF_DROP: i32 = 0;
pub(super) const NF_ACCEPT: i32 = 1;
const NFT_CONTINUE: i32 = -1;
const NFT_BREAK: i32 = -2;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
/// The longest name of a chain (`NFT_CHAIN_MAXNAMELEN`, its NUL aside).
pub(super) const CHAIN_NAME_MAX: usize = 255;

/// Look the source address up.
pub const FIB_SADDR: u32 = 1;
/// Look the destination address up.
pub const FIB_DADDR: u32 = 2;
/// Look it up with the packet's mark.
pub const FIB_MARK: u32 = 4;
/// Only as seen from the input interface.
pub const FIB_IIF: u32 = 8;
/// Only as seen from the output interface.
pub const FIB_OIF: u32 = 16;
/// Whether there is a route, not which.
pub const FIB_PRESENT: u32 = 32;

/// Choose source ports at random.
pub const NAT_RANDOM: u32 = 1 << 2;
/// The same client gets the same address each time.
pub const NAT_PERSISTENT: u32 = 1 << 3;
/// Choose source ports at random at once, without trying to keep the port.
pub const NAT_RANDOM_FULLY: u32 = 1 << 4;

/// Where an expression leaves or finds its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// The verdict, as which a map of verdicts or an immediate leaves its value.
    pub const VERDICT: Register = Register(u8::MAX);
    /// How many four-byte registers there are.
    pub const COUNT: u8 = 16;

    /// The four-byte register of this number, 0 to 15. A greater number is refused by the kernel.
    pub const fn new(number: u8) -> Self {
        Register(number)
    }

    /// The register `bytes` further on, rounded up to whole registers.
    pub const fn after(self, bytes: usize) -> Self {
        Register(self.0.saturating_add(bytes.div_ceil(4) as u8))
    }

    /// As the kernel itself says it (`nft_dump_register`): every fourth has a name of its own.
    pub(super) fn number(self) -> u32 {
        match self.0 {
            u8::MAX => 0,
            number if number < Self::COUNT && number % 4 == 0 => 1 + u32::from(number) / 4,
            number => 8 + u32::from(number),
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        match u8::try_from(number).ok()? {
            0 => Some(Self::VERDICT),
            number @ 1..=4 => Some(Register((number - 1) * 4)),
            number @ 8..=23 => Some(Register(number - 8)),
            _ => None,
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict<'a> {
    /// It goes on to the next chain at this hook, if there is one.
    Accept,
    /// It is gone.
    Drop,
    /// It goes on to the next rule.
    Continue,
    /// The rest of this rule is not for it.
    Break,
    /// It goes back to where this chain was jumped to from.
    Return,
    /// It goes through that chain, and may come back.
    Jump(Cow<'a, str>),
    /// It goes through that chain, and comes back to where this one was jumped to from.
    Goto(Cow<'a, str>),
}

impl<'a> Verdict<'a> {
    pub(super) fn parts(&self) -> (i32, Option<&str>) {
        match self {
            Verdict::Accept => (NF_ACCEPT, None),
            Verdict::Drop => (NF_DROP, None),
            Verdict::Continue => (NFT_CONTINUE, None),
            Verdict::Break => (NFT_BREAK, None),
            Verdict::Return => (NFT_RETURN, None),
            Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
        }
    }

    pub(super) fn from_parts(code: i32, chain: Option<&'a str>) -> Option<Self> {
        Some(match (code, chain) {
            (NF_ACCEPT, _) => Verdict::Accept,
            (NF_DROP, _) => Verdict::Drop,
            (NFT_CONTINUE, _) => Verdict::Continue,
            (NFT_BREAK, _) => Verdict::Break,
            (NFT_RETURN, _) => Verdict::Return,
            (NFT_JUMP, Some(chain)) => Verdict::Jump(Cow::Borrowed(chain)),
            (NFT_GOTO, Some(chain)) => Verdict::Goto(Cow::Borrowed(chain)),
            _ => return None,
        })
    }

    /// The same, owning the chain's name.
    pub fn into_owned(self) -> Verdict<'static> {
        match self {
            Verdict::Jump(chain) => Verdict::Jump(Cow::Owned(chain.into_owned())),
            Verdict::Goto(chain) => Verdict::Goto(Cow::Owned(chain.into_owned())),
            Verdict::Accept => Verdict::Accept,
            Verdict::Drop => Verdict::Drop,
            Verdict::Continue => Verdict::Continue,
            Verdict::Break => Verdict::Break,
            Verdict::Return => Verdict::Return,
        }
    }
}

/// Declares an enum whose variants are the kernel's numbers, and the way back from the number.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            pub(super) fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| *one as u32 == number)
            }
        }
    };
}

numbered! {
    /// Which header a payload's offset counts from.
    PayloadBase {
        /// Ethernet's.
        Link = 0,
        /// IP's.
        Network = 1,
        /// TCP's, UDP's, SCTP's.
        Transport = 2,
    }
}

numbered! {
    /// What is known of a packet beside its bytes. Numbers are in this machine's byte order.
    MetaKey {
        /// Its mark.
        Mark = 3,
        /// Index of the interface it came by.
        Iif = 4,
        /// Index of the interface it leaves by.
        Oif = 5,
        /// Name of the interface it came by, 16 bytes.
        IifName = 6,
        /// Name of the interface it leaves by, 16 bytes.
        OifName = 7,
        /// User of the socket it comes from.
        SkUid = 10,
        /// Whether it is traced.
        Nftrace = 12,
        /// 2 for IPv4, 10 for IPv6; one byte.
        NfProto = 15,
        /// Its layer 4 protocol, one byte.
        L4Proto = 16,
        /// Unicast, broadcast, multicast; one byte.
        PktType = 19,
        /// The processor at work.
        Cpu = 20,
    }
}

numbered! {
    /// What connection tracking knows.
    CtKey {
        /// `INVALID` 1, `ESTABLISHED` 2, `RELATED` 4, `NEW` 8, `UNTRACKED` 64.
        State = 0,
        /// 0 original, 1 reply; one byte.
        Direction = 1,
        /// `IPS_*`: seen-reply 2, confirmed 8, snat 16, dnat 32.
        Status = 2,
        /// The connection's mark.
        Mark = 3,
        /// When it will be forgotten, in milliseconds.
        Expiration = 5,
        /// 2 for IPv4, 10 for IPv6; one byte; takes a direction.
        L3Protocol = 7,
        /// Source address of either family; takes a direction.
        Src = 8,
        /// Destination address of either family; takes a direction.
        Dst = 9,
        /// Layer 4 protocol, one byte; takes a direction.
        Protocol = 10,
        /// Source port, big-endian; takes a direction.
        ProtoSrc = 11,
        /// Destination port, big-endian; takes a direction.
        ProtoDst = 12,
        /// The zone, two bytes.
        Zone = 17,
        /// Source address, IPv4; takes a direction.
        SrcIp = 19,
        /// Destination address, IPv4; takes a direction.
        DstIp = 20,
        /// Source address, IPv6; takes a direction.
        SrcIp6 = 21,
        /// Destination address, IPv6; takes a direction.
        DstIp6 = 22,
        /// The connection's number.
        Id = 23,
    }
}

numbered! {
    /// Which of a connection's two tuples.
    CtDirection {
        /// As the first packet had it.
        Original = 0,
        /// As replies have it.
        Reply = 1,
    }
}

numbered! {
    /// How to compare; as big-endian numbers.
    Operator {
        /// Equal.
        Equal = 0,
        /// Not equal.
        NotEqual = 1,
        /// Less.
        Less = 2,
        /// Less or equal.
        LessOrEqual = 3,
        /// Greater.
        Greater = 4,
        /// Greater or equal.
        GreaterOrEqual = 5,
    }
}

numbered! {
    /// What a rule does to a set.
    DynsetOperation {
        /// Add the element unless it is there.
        Add = 0,
        /// Add the element or begin its time anew. (Its data stays.)
        Update = 1,
        /// Delete the element.
        Delete = 2,
    }
}

numbered! {
    /// Where numbers come from.
    NumgenKind {
        /// One after the other.
        Incremental = 0,
        /// At random.
        Random = 1,
    }
}

numbered! {
    /// What a route look-up tells.
    FibResult {
        /// Index of the output interface.
        Oif = 1,
        /// Name of the output interface.
        OifName = 2,
        /// `RTN_*`: unicast 1, local 2, broadcast 3.
        AddrType = 3,
    }
}

numbered! {
    /// Which address is translated.
    NatKind {
        /// The source.
        Source = 0,
        /// The destination.
        Destination = 1,
    }
}

numbered! {
    /// What is asked of the socket a packet would be delivered to.
    SocketKey {
        /// Whether it is transparent, one byte.
        Transparent = 0,
        /// Its mark.
        Mark = 1,
        /// Whether it is bound to any address, one byte.
        Wildcard = 2,
    }
}

/// How a packet's sender learns that it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// ICMP or ICMPv6 unreachable, by the family's own code.
    Icmp(u8),
    /// TCP reset.
    TcpReset,
    /// Either family: no route 0, port 1, host 2, administratively prohibited 3.
    Icmpx(u8),
}

/// What is done to the bits of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bitwise {
    /// value & mask ^ xor, of equal length.
    MaskXor {
        /// What stays.
        mask: Vec<u8>,
        /// What is flipped then.
        xor: Vec<u8>,
    },
    /// Shifted left by so many bits, as one number.
    ShiftLeft(u32),
    /// Shifted right by so many bits, as one number.
    ShiftRight(u32),
}

/// One instruction. `from` and `into` are the registers it reads and writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are the kernel's; what needs saying is said on the variant")]
pub enum Expression {
    /// Load bytes of the packet.
    Payload { into: Register, base: PayloadBase, offset: u32, len: u32 },
    /// Write bytes of an address in the network header. `checksum` is where the header's own checksum
    /// is, if it has one; those of TCP and UDP, which cover addresses, are put right as well.
    PayloadSet { from: Register, offset: u32, len: u32, checksum: Option<u32> },
    /// Load what is known of the packet.
    Meta { into: Register, key: MetaKey },
    /// Set what is known of the packet.
    MetaSet { from: Register, key: MetaKey },
    /// Load what is known of its connection; tuple keys need a direction.
    Ct { into: Register, key: CtKey, direction: Option<CtDirection> },
    /// Set what is known of its connection.
    CtSet { from: Register, key: CtKey },
    /// Go on only if the value compares so.
    Compare { from: Register, operator: Operator, value: Vec<u8> },
    /// Go on only if the value is within (or, inverted, outside) the range.
    Range { from: Register, invert: bool, low: Vec<u8>, high: Vec<u8> },
    /// Change the bits of a value of `len` bytes.
    Bitwise { from: Register, into: Register, len: u32, operation: Bitwise },
    /// Change the byte order of `len` bytes in numbers of `size`; the same both ways.
    ByteOrder { from: Register, into: Register, to_network: bool, len: u32, size: u32 },
    /// Load a constant.
    Immediate { into: Register, value: Vec<u8> },
    /// Judge.
    Verdict(Verdict<'static>),
    /// Go on only if the key is in the set (inverted: is not); from a map, load what it maps to.
    /// From a map of verdicts that is [`Register::VERDICT`].
    Lookup { set: SetRef, key: Register, into: Option<Register>, invert: bool },
    /// Change a set from the packet path. `invert`: go on only if that fails.
    Dynset {
        operation: DynsetOperation,
        set: SetRef,
        key: Register,
        data: Option<Register>,
        timeout: Option<Duration>,
        invert: bool,
    },
    /// Load a number below `modulus`, plus `offset`, in this machine's byte order.
    Numgen { into: Register, kind: NumgenKind, modulus: u32, offset: u32 },
    /// Load Jenkins' hash of `len` bytes, below `modulus`, plus `offset`. Without a seed the
    /// kernel chooses one.
    Hash { from: Register, into: Register, len: u32, modulus: u32, seed: Option<u32>, offset: u32 },
    /// Load what the routing table says; `flags` are `FIB_*`.
    Fib { into: Register, result: FibResult, flags: u32 },
    /// Load what the packet's socket says; go on only if there is one.
    Socket { into: Register, key: SocketKey },
    /// Translate; `flags` are `NAT_*`. The maximum is the minimum unless given.
    Nat {
        kind: NatKind,
        family: super::Family,
        address: Option<Register>,
        address_max: Option<Register>,
        port: Option<Register>,
        port_max: Option<Register>,
        flags: u32,
    },
    /// Translate the source to the output interface's address; `flags` are `NAT_*`.
    Masquerade { flags: u32 },
    /// Refuse, and say so.
    Reject(Reject),
    /// Count. When added, the counts to begin with.
    Counter { packets: u64, bytes: u64 },
    /// Send a copy to whoever listens to this nflog group; `snaplen` 0 is the whole packet.
    Log { group: u16, prefix: String, snaplen: u32 },
    /// Go on only for so many packets in so many seconds (inverted: only beyond).
    Limit { rate: u64, per_s: u64, burst: u32, invert: bool },
    /// Keep connection tracking off this packet.
    NoTrack,
    /// An instruction we do not know, or know otherwise: its name and its attributes as sent.
    Unknown { name: String, attributes: Vec<u8> },
}
