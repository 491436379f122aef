//! RootlessKit: what the installed one can, and the arguments it gets.

mod arguments;
mod capabilities;
pub mod port;

pub use arguments::{Launch, Tools, Wanted, count_published, launch};
pub use capabilities::Capabilities;
