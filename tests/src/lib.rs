//! What the black-box tests share.

pub mod bed;
pub mod bus;
pub mod driver;
pub mod front;
pub mod idl;
pub mod raw;
