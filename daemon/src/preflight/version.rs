//! Versions as programs print them.

/// A version, to compare: the first two numbers are all that behaviour hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Reads `29.5.0-rc.1`, `1.7.24~ds1`, `v2.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim_start_matches('v').split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        });
        Some(Self(numbers.next()??, numbers.next()??))
    }
}

/// The version in the first line of what `PROGRAM --version` prints.
pub fn version_in(output: &str) -> Option<String> {
    output
        .lines()
        .next()?
        .split_ascii_whitespace()
        .map(|word| word.trim_end_matches(','))
        .find(|word| Version::parse(word).is_some())
        .map(|word| word.trim_start_matches('v').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_engine_s_programs() {
        for (output, version, number) in [
            ("Docker version 20.10.24+dfsg1, build 5d6db84", "20.10.24+dfsg1", (20, 10)),
            ("Docker version 29.5.0-rc.1, build abc", "29.5.0-rc.1", (29, 5)),
            (
                "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1",
                "1.7.24~ds1",
                (1, 7),
            ),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7", "2.1.4", (2, 1)),
            ("runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1", "1.1.5+ds1", (1, 1)),
            ("rootlesskit version 2.0.2", "2.0.2", (2, 0)),
        ] {
            let found = version_in(output).expect(output);
            assert_eq!(found, version);
            assert_eq!(Version::parse(&found), Some(Version(number.0, number.1)));
        }
        for output in ["", "pasta unknown version", "7", "x.y"] {
            assert_eq!(version_in(output), None, "{output:?}");
        }
    }
}
