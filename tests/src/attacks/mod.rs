//! What attackers are made of: see `rootlessd-attacker`, and the tests named `attack_NN_…`.

pub mod client;
pub mod fuzz;
pub mod random;
pub mod sockets;
pub mod target;
pub mod values;
pub mod wire;
