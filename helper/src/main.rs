//! `rootlessd-helper`: see [`rootlessd_helper`].

fn main() {}
