//! An attacker, to be run in a bed: `rootlessd-attacker MODE …`. What each does stands in
//! [`rootlessd_tests::attacks`]; answers are printed, a line each.

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use rootlessd_tests::attacks::{
    client::{self, Client, SYSTEM_BUS, arguments},
    fuzz,
    random::Random,
    sockets,
    wire::{Body, INTERACTIVE},
};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[OsString]) -> io::Result<()> {
    let texts: Vec<_> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    match texts[..] {
        ["call", member, signature, ..] => call(0, None, member, &body(signature, &words[3..])?),
        ["ask", member, signature, ..] => {
            call(INTERACTIVE, None, member, &body(signature, &words[3..])?)
        }
        ["call-as", sender, member, signature, ..] => {
            call(0, Some(sender), member, &body(signature, &words[4..])?)
        }
        ["each"] => client::each(&mut Client::new()?),
        ["repeat", many, member, signature, ..] => {
            let body = body(signature, &words[4..])?;
            client::repeat(&mut Client::new()?, number(many)?, member, &body)
        }
        ["ask-twice", first, second] => client::ask_twice(&[first, second]),
        ["pending", many] => client::pending(number(many)?),
        ["vanish", many, most] => client::vanish(number(many)?, number(most)?),
        ["become", ..] => client::become_another(&words[1..]),
        ["files", many] => client::files(number(many)?),
        ["flood", seconds, rate, size] => {
            client::flood(number(seconds)?, number(rate)?, number(size)?)
        }
        ["latency", seconds] => client::latency(number(seconds)?),
        ["exchange", ..] => client::exchange(&words[1], &words[2]),
        ["reloads", many] => client::reloads(number(many)?),
        ["guess", many] => client::guess(number(many)?),
        ["bind", ..] => {
            for what in &texts[1..] {
                let bound = sockets::bind(what);
                println!(
                    "{what} {}",
                    bound.map_or_else(|error| error.kind().to_string(), |_| "ok".into())
                );
            }
            Ok(())
        }
        ["hold", what] => {
            let _bound = sockets::bind(what)?;
            println!("held");
            io::stdin().read_line(&mut String::new()).map(drop)
        }
        ["fuzz", bus, name, path, calls, seed, ..] => {
            let service = fuzz::Service {
                name: name.into(),
                path: path.into(),
                calls: number(calls)?,
                gentle: texts[6..].iter().map(|&text| text.into()).collect(),
            };
            let seed = if seed == "0" { Random::seed() } else { number(seed)? };
            println!("seed {seed}");
            let bus = if bus == "system" { SYSTEM_BUS } else { bus };
            for (method, results) in fuzz::run(Path::new(bus), &service, seed)? {
                let results: Vec<_> =
                    results.iter().map(|(result, many)| format!("{result} {many}")).collect();
                println!("{method}: {}", results.join(", "));
            }
            Ok(())
        }
        _ => Err(io::Error::other(format!("what is {words:?}?"))),
    }
}

fn call(flags: u8, sender: Option<&str>, member: &str, body: &Body) -> io::Result<()> {
    let mut client = Client::new()?;
    client.flags = flags;
    client.sender = sender.map(str::to_owned);
    let reply = client.call(member, body)?;
    println!("{}", reply.line());
    reply.ids().iter().for_each(|id| println!("{id}"));
    Ok(())
}

fn body(signature: &str, words: &[OsString]) -> io::Result<Body> {
    arguments(signature, words)
}

fn number<T: std::str::FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>>>(
    word: &str,
) -> io::Result<T> {
    word.parse().map_err(io::Error::other)
}
