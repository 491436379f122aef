//! The program that grants ports: written here, instruction by instruction, and pure.

use std::collections::BTreeSet;

use rootlessd_api::{Port, Protocol};

/// Where the kernel's `struct bpf_sock_addr` (include/uapi/linux/bpf.h) has the port that is asked
/// for, in network byte order: 16 bits of it, which a load of all 32 extends by zeros
/// (`sock_addr_convert_ctx_access` in net/core/filter.c).
const USER_PORT: i16 = 24;
/// Where it has the socket's protocol: a number of `IPPROTO_*`.
const PROTOCOL: i16 = 36;

/// `BPF_LDX | BPF_MEM | BPF_W`: load 32 bits.
const LOAD: u8 = 0x61;
/// `BPF_ALU64 | BPF_MOV | BPF_K`
const SET: u8 = 0xb7;
/// `BPF_ALU64 | BPF_LSH | BPF_K`
const SHIFT_LEFT: u8 = 0x67;
/// `BPF_ALU64 | BPF_OR | BPF_X`
const OR: u8 = 0x4f;
/// `BPF_JMP | BPF_JNE | BPF_K`: skip so many instructions if it is another.
const SKIP_IF_NOT: u8 = 0x55;
/// `BPF_JMP | BPF_EXIT`
const EXIT: u8 = 0x95;

/// "As if this program were not there." 0, which nothing here returns, would refuse.
const GO_ON: i32 = 1;
/// The same, and `CAP_NET_BIND_SERVICE` is not asked for: `BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE`
/// (include/linux/bpf-cgroup.h, since Linux 5.12) in the bits above the first.
const GRANT: i32 = GO_ON | 1 << 1;

/// The registers: what is returned, what is given, and what we use.
const R0: u8 = 0;
const CONTEXT: u8 = 1;
const KEY: u8 = 2;
const UPPER: u8 = 3;

/// One instruction: the kernel's `struct bpf_insn` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    fn new(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> Self {
        // Two bit fields, whose order is that of the machine's bytes.
        let registers = if cfg!(target_endian = "little") {
            source << 4 | target
        } else {
            target << 4 | source
        };
        Self { code, registers, offset, immediate }
    }

    /// `target = value`
    pub fn set(target: u8, value: i32) -> Self {
        Self::new(SET, target, 0, 0, value)
    }

    /// Return what is in register 0.
    pub fn exit() -> Self {
        Self::new(EXIT, 0, 0, 0, 0)
    }
}

/// A program for the hooks of bind(2), of IPv4 as of IPv6: sockets need no privilege for exactly
/// these ports. It refuses nothing by itself, and changes nothing for all others.
///
/// The kernel asks by the cgroup in which the socket was made, whoever binds it. A listener of
/// multipath TCP counts as TCP.
pub fn program(ports: &BTreeSet<Port>) -> Vec<Insn> {
    let mut program = vec![
        Insn::new(LOAD, KEY, CONTEXT, USER_PORT, 0),
        Insn::new(LOAD, UPPER, CONTEXT, PROTOCOL, 0),
        Insn::new(SHIFT_LEFT, UPPER, 0, 0, 16),
        Insn::new(OR, KEY, UPPER, 0, 0),
        Insn::set(R0, GRANT),
    ];
    for port in ports {
        program.extend([Insn::new(SKIP_IF_NOT, KEY, 0, 1, key(*port)), Insn::exit()]);
    }
    program.extend([Insn::set(R0, GO_ON), Insn::exit()]);
    program
}

/// Protocol and port as one number, as the program puts them together.
fn key(port: Port) -> i32 {
    let protocol: i32 = match port.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    protocol << 16 | i32::from(port.number.to_be())
}

#[cfg(test)]
mod tests {
    use rootlessd_api::helper::MOST_PORTS;

    use super::*;

    /// Runs a program as the kernel does, for a socket of this protocol that asks for this port.
    fn run(program: &[Insn], protocol: u32, port: u16) -> u64 {
        let mut registers = [None; 11];
        let (mut at, mut steps) = (0, 0);
        loop {
            let Insn { code, registers: both, offset, immediate } = program[at];
            let (high, low) = (usize::from(both >> 4), usize::from(both & 15));
            let (target, source) =
                if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
            at += 1;
            steps += 1;
            assert!(steps <= program.len(), "it goes in circles");
            // As the verifier does: a register must have been written before it is read.
            let read = |register: usize| registers[register].expect("a value");
            let immediate = i64::from(immediate) as u64;
            registers[target] = match code {
                LOAD => {
                    assert_eq!(source, usize::from(CONTEXT));
                    Some(match offset {
                        USER_PORT => u64::from(port.to_be()),
                        PROTOCOL => u64::from(protocol),
                        _ => panic!("not ours to read"),
                    })
                }
                SET => Some(immediate),
                SHIFT_LEFT => Some(read(target) << immediate),
                OR => Some(read(target) | read(source)),
                SKIP_IF_NOT => {
                    at += if read(target) == immediate {
                        0
                    } else {
                        usize::try_from(offset).unwrap()
                    };
                    registers[target]
                }
                EXIT => return read(0),
                _ => panic!("an instruction that we do not use"),
            };
        }
    }

    #[test]
    fn grants_exactly_what_is_listed() {
        let most: Vec<_> = (0..MOST_PORTS).map(|n| format!("{}/udp", 1023 - n)).collect();
        let most: Vec<_> = most.iter().map(String::as_str).collect();
        let table: [&[&str]; 7] = [
            &[],
            &["80/tcp"],
            &["53/udp"],
            &["80/tcp", "443/tcp", "443/udp"],
            // The same bytes, the other way around.
            &["1/tcp", "256/udp"],
            &["1/tcp", "255/tcp", "1023/tcp", "1024/tcp", "32768/tcp", "65535/tcp", "65535/udp"],
            &most,
        ];
        // HOPOPTS, ICMP, TCP, UDP, UDP-Lite, SCTP, raw, multipath TCP; and one with upper bits of TCP.
        let protocols = [0, 1, 6, 17, 136, 132, 255, 262, 0x0006_0006];
        for texts in table {
            let ports: BTreeSet<Port> = texts.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(ports.len(), texts.len());
            let program = program(&ports);
            for protocol in protocols {
                for number in 0..=u16::MAX {
                    let name = match protocol {
                        6 => "tcp",
                        17 => "udp",
                        _ => "",
                    };
                    let listed = Port::new(name, number).is_ok_and(|port| ports.contains(&port));
                    let wanted = if listed { 3 } else { 1 };
                    assert_eq!(
                        run(&program, protocol, number),
                        wanted,
                        "{protocol} {number} {texts:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn is_as_long_as_its_list() {
        let ports = (1..=64).map(|number| Port::new("tcp", number).unwrap()).collect();
        assert_eq!(program(&ports).len(), 7 + 2 * 64);
        assert_eq!(size_of::<Insn>(), 8);
    }
}
