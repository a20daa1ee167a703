//! As `names_local.rs`, on a kernel that has IPVS.

mod common;

#[test]
fn beside_ipvs() {
    common::local::goes_back_and_forth("ipvs");
}
