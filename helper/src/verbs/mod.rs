//! What each verb changes: whether there is anything to change, the change, its undoing, and whether
//! it stands.

pub mod capability;
pub mod delegation;
pub mod ports;
pub mod subids;
pub mod sysctl;
