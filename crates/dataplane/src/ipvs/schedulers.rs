//! Which schedulers there are, and what to say of one that the kernel lacks. What they do is the
//! kernel's business.

use model::{Name, ObjectName};
use plan::ServiceRules;

/// The annotation by which a Service asks for a scheduler of its own, behind our prefix.
pub(super) const ANNOTATION: &str = "ipvs-scheduler";

/// Those that a Service may ask for. A name makes the kernel look for a module, so that not every
/// word may be one.
const KNOWN: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf", "twos"];

/// The longest name that the kernel takes, `IP_VS_SCHEDNAME_MAXLEN` with its end.
const LENGTH_MAX: usize = 15;

/// The scheduler that a Service asks for, if any.
pub(super) fn asked(service: &ServiceRules) -> Option<&Name> {
    service.annotations.get(ANNOTATION)
}

/// Whether the kernel can be asked for a scheduler of this name.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=LENGTH_MAX).contains(&name.len()) && name.bytes().all(plain)
}

/// Whether a Service may ask for it.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// What is missing where a scheduler is.
pub(super) fn missing(name: &str) -> String {
    match is_name(name) {
        true => format!(
            "this kernel's IPVS has no scheduler {name}: it wants the module ip_vs_{name} (modprobe ip_vs_{name})"
        ),
        false => format!("{name:?} is no IPVS scheduler: the kernel has {}", KNOWN.join(" ")),
    }
}

/// What is said of a Service that is served by another scheduler than it asks for.
pub(super) fn instead(service: &ObjectName, name: &str, default: &str) -> (Option<ObjectName>, String) {
    let why = match is_known(name) {
        true => missing(name),
        false => format!("{name:?} is no IPVS scheduler: the kernel has {}", KNOWN.join(" ")),
    };
    (Some(service.clone()), format!("{why}; served by {default} instead"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_asked_for() {
        assert!(KNOWN.iter().all(|name| is_name(name)));
        for name in ["", "RR", "rr ", "../rr", "rr-rr", "sixteen_letters_"] {
            assert!(!is_name(name), "{name:?}");
        }
        assert!(missing("mh").contains("modprobe ip_vs_mh"));
        assert!(!missing("../mh").contains("modprobe"));
        assert!(!is_known("ftp") && is_name("ftp"));
        let (_, said) = instead(&ObjectName::new("shop", "web"), "ftp", "rr");
        assert!(!said.contains("modprobe") && said.ends_with("served by rr instead"), "{said}");
    }
}
