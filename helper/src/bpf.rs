//! stub
use rootlessd_api::Port;
use std::{collections::BTreeSet, os::fd::BorrowedFd, path::Path};
/// e
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// u
    #[error("{0}")]
    Unsupported(String),
    /// x
    #[error("{0}")]
    Other(String),
}
/// c
pub fn check_support(_: &Path) -> Result<(), Error> {
    Ok(())
}
/// c
pub fn attach_ports(_: &Path, _: u32, _: BorrowedFd<'_>, _: &BTreeSet<Port>) -> Result<(), Error> {
    Ok(())
}
/// c
pub fn detach(_: &Path, _: u32) -> Result<(), Error> {
    Ok(())
}
/// c
pub fn attached(_: &Path, _: u32, _: BorrowedFd<'_>, _: &BTreeSet<Port>) -> Result<bool, Error> {
    Ok(true)
}
