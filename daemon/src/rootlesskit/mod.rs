//! RootlessKit: what the installed one can, and the arguments it gets.

mod arguments;
mod capabilities;
pub mod port;

pub use arguments::{Launch, Tools, Wanted, launch};
pub use capabilities::Capabilities;
