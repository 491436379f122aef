//! Values for arguments: random ones of a type, and those at which programs have failed before.

use crate::attacks::{random::Random, wire::Writer};

/// Words that mean something to somebody.
const WORDS: [&str; 24] = [
    "",
    "tcp",
    "udp",
    "own",
    "all",
    "cpu",
    "memory",
    "pids",
    "devices",
    "TCP",
    " tcp",
    "own\n",
    "\u{1b}]0;x\u{7}",
    "\u{202e}",
    "80\nkernel.core_pattern=|/tmp/x",
    "../../etc/passwd",
    "%s%n%n",
    "$(id)",
    "é",
    "0",
    "-1",
    "64000",
    "\\",
    "\"",
];
const NUMBERS: [u64; 14] = [
    0,
    1,
    22,
    80,
    443,
    1023,
    1024,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    u64::MAX,
    1 << 63,
];

/// When there are so many bytes, lists are empty.
const MOST: usize = 100_000;

/// The signature of some arguments.
pub fn signature(random: &mut Random) -> String {
    (0..random.below(4)).map(|_| kind(random, 3)).collect()
}

fn kind(random: &mut Random, depth: usize) -> String {
    const PLAIN: [&str; 13] = ["y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g", "v"];
    if depth == 0 || random.one_in(2) {
        return (*random.pick(&PLAIN)).to_owned();
    }
    match random.below(3) {
        0 => format!("a{}", kind(random, depth - 1)),
        1 => format!("a{{{}{}}}", random.pick(&["s", "u", "o"]), kind(random, depth - 1)),
        _ => {
            (0..=random.below(3)).fold("(".to_owned(), |text, _| text + &kind(random, depth - 1))
                + ")"
        }
    }
}

/// Arguments of these types, with strings up to so many bytes; some of the `known` words among them.
pub fn body(random: &mut Random, signature: &str, longest: usize, known: &[String]) -> Vec<u8> {
    let mut writer = Writer::default();
    let mut rest = signature;
    while !rest.is_empty() {
        let (one, others) = rest.split_at(first(rest));
        value(random, &mut writer, one, longest, known);
        rest = others;
    }
    writer.bytes
}

/// How long the first type is.
fn first(signature: &str) -> usize {
    match signature.as_bytes()[0] {
        b'a' => 1 + first(&signature[1..]),
        b'(' | b'{' => {
            let mut depth = 0;
            let end = signature.bytes().position(|letter| {
                match letter {
                    b'(' | b'{' => depth += 1,
                    b')' | b'}' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            end.map_or(signature.len(), |end| end + 1)
        }
        _ => 1,
    }
}

fn alignment(kind: &str) -> usize {
    match kind.as_bytes()[0] {
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        b'y' | b'g' | b'v' => 1,
        _ => 4,
    }
}

/// A value of one type, at its place among others.
pub fn value(
    random: &mut Random,
    writer: &mut Writer,
    kind: &str,
    longest: usize,
    known: &[String],
) {
    let number = if random.one_in(2) { *random.pick(&NUMBERS) } else { random.any() };
    let number = number.to_le_bytes();
    match kind.as_bytes()[0] {
        b'y' => writer.number(&number[..1]),
        b'n' | b'q' => writer.number(&number[..2]),
        b'b' => writer.length(random.below(2)),
        b'i' | b'u' => writer.number(&number[..4]),
        b'x' | b't' | b'd' => writer.number(&number),
        b's' => writer.string(&text(random, longest, known)),
        b'o' => {
            writer.string((*random.pick(&["/", "/org/rootlessd/Helper1", "/a/b_c"])).as_bytes())
        }
        b'g' => {
            let inner = *random.pick::<&str>(&["", "s", "a(sq)", "a{sv}", "(((u)))"]);
            writer.signature(inner);
        }
        b'v' => {
            let inner = *random.pick(&["s", "u", "as", "(qs)"]);
            writer.signature(inner);
            value(random, writer, inner, 100, known);
        }
        b'a' => {
            let inner = &kind[1..];
            // Many of what is small, now and then.
            let most = if random.one_in(20) { 3000 } else { 4 };
            // Of lists of lists, not all.
            let many = if writer.bytes.len() > MOST { 0 } else { random.below(most + 1) };
            let longest = longest / many.max(1);
            writer.array(alignment(inner), |writer| {
                (0..many).for_each(|_| value(random, writer, inner, longest.min(2000), known));
            });
        }
        _ => {
            writer.align(8);
            let mut rest = &kind[1..kind.len() - 1];
            while !rest.is_empty() {
                let (one, others) = rest.split_at(first(rest));
                value(random, writer, one, longest, known);
                rest = others;
            }
        }
    }
}

fn text(random: &mut Random, longest: usize, known: &[String]) -> Vec<u8> {
    match random.below(8) {
        0 => {
            let long = random.below(longest + 1);
            // Nothing that stands alone for itself, and never a NUL.
            (0..long).map(|_| 1 + (random.any() % 126) as u8).collect()
        }
        1 => "ä".repeat(longest.min(50_000) / 2).into_bytes(),
        4 | 5 => {
            random.pick(&["tcp", "udp", "own", "all", "cpu", "memory", "pids"]).as_bytes().to_vec()
        }
        2 | 3 if !known.is_empty() => random.pick(known).clone().into_bytes(),
        2 => format!("{:032x}", u128::from(random.any())).into_bytes(),
        _ => random.pick(&WORDS).as_bytes().to_vec(),
    }
}
