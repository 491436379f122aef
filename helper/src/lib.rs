//! `rootlessd-helper`: the only part of rootlessd that is ever root.

pub mod bpf;
