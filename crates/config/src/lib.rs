//! Configuration files: kube-proxy's KubeProxyConfiguration, read as kube-proxy reads it, and a
//! document of our own beside it.
//!
//! In two steps. [`KubeProxyConfiguration`] is the file as typed: every field, in its own words, set
//! or not. [`Configuration`] is what it means: defaults filled in, checked, in types that leave no
//! question. Flags that override the file change the first; the program reads the second.
//!
//! ```text
//! text ──tree──> KubeProxyConfiguration ──defaults, checks──> Configuration
//! ```
//!
//! Nothing here acts on a configuration, watches a file or reads a flag.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod check;
mod decode;
mod defaults;
mod duration;
mod load;
mod meant;
mod portolan;
mod quantity;
mod settings;
mod tree;
mod v1alpha1;
mod yaml;

pub use check::Invalid;
pub use duration::GoDuration;
pub use load::{Error, Loaded, load, parse};
pub use meant::{
    Client, Configuration, Conntrack, DetectLocal, IpTables, Ipvs, Logging, Mode, NfTables,
    NodePortAddresses, NotAMode, Periods,
};
pub use portolan::{DrainLimit, IpvsAddresses, PortolanConfiguration, PortolanIpvs, PortolanNames, SetAside};
pub use quantity::Quantity;
pub use settings::settings;
pub use v1alpha1::{
    ClientConnection, ConntrackSection, DetectLocalSection, FormatOptions, IpTablesSection, IpvsSection,
    KubeProxyConfiguration, LoggingSection, NfTablesSection, OutputOptions, TimeOrDuration, VmoduleItem,
    WinkernelSection,
};

/// For fuzzing: reads any bytes as a configuration and checks what must hold of the outcome.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(loaded) = parse(text, std::path::Path::new("fuzz")) else { return };
    // What is written out means the same.
    let written = loaded.typed.to_yaml();
    match parse(&written, std::path::Path::new("written")) {
        Ok(again) => {
            assert_eq!(again.configuration, loaded.configuration, "{written}");
            assert!(again.warnings.is_empty(), "{:?}", again.warnings);
        }
        Err(error) => panic!("{error}\n{written}"),
    }
}
