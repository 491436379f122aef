//! Values: how each kind of them is read and shown.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use toml::de::DeValue;

use super::types::{AskPorts, LogLevel, NetworkDriver, OnLoss, PortDriver, Start, Switch};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string of a file.
    Text(String),
    /// A boolean of a file.
    Bool(bool),
    /// An integer of a file.
    Integer(i64),
    /// An array of strings of a file.
    List(Vec<String>),
    /// Something else of a file, by TOML's name.
    Other(&'static str),
    /// The text of an environment variable, which has no types.
    Variable(String),
}

/// Why a value is refused: how it should have been written.
pub type Refused = String;

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Self {
        let other = Self::Other(value.type_str());
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(truth) => Self::Bool(*truth),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or(other, Self::Integer)
            }
            DeValue::Array(items) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map_or(Self::Other("array"), Self::List),
            _ => other,
        }
    }
}

/// One of a few words; a boolean stands for its word.
pub fn word<T>(
    value: &Value,
    words: &[&str],
    from_word: fn(&str) -> Option<T>,
) -> Result<T, Refused> {
    let word = match value {
        Value::Text(word) => word,
        Value::Variable(word) if word == "1" && words.contains(&"true") => "true",
        Value::Variable(word) if word == "0" && words.contains(&"false") => "false",
        Value::Variable(word) => word,
        Value::Bool(true) => "true",
        Value::Bool(false) => "false",
        _ => "",
    };
    from_word(word).ok_or_else(|| format!("must be one of {}", words.join(", ")))
}

/// `true` or `false`; in a variable `1` or `0` as well.
pub fn truth(value: &Value) -> Result<bool, Refused> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::Variable(text) if matches!(text.as_str(), "1" | "true") => Ok(true),
        Value::Variable(text) if matches!(text.as_str(), "0" | "false") => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

/// Like [`truth`], but whatever else a variable says is true: dockerd-rootless.sh looks for
/// `false` alone.
pub fn not_false(value: &Value) -> Result<bool, Refused> {
    match value {
        Value::Variable(text) => Ok(text != "false"),
        _ => truth(value),
    }
}

/// A number within a range.
pub fn number(value: &Value, range: RangeInclusive<u32>) -> Result<u32, Refused> {
    let number = match value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        Value::Variable(text) => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("must be a number from {} to {}", range.start(), range.end()))
}

/// A number within a range, or `"auto"`.
pub fn number_or_auto(value: &Value, range: RangeInclusive<u32>) -> Result<Option<u32>, Refused> {
    match value {
        Value::Text(text) | Value::Variable(text) if text == "auto" => Ok(None),
        _ => number(value, range).map(Some).map_err(|refused| format!("{refused}, or \"auto\"")),
    }
}

/// A time within a range of seconds, such as `"1m 30s"`.
pub fn time(value: &Value, seconds: RangeInclusive<f64>) -> Result<Duration, Refused> {
    let text = match value {
        Value::Text(text) | Value::Variable(text) => text.as_str(),
        _ => "",
    };
    let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    time.filter(|time| seconds.contains(&time.as_secs_f64())).ok_or_else(|| {
        let show = |seconds| show_time(Duration::from_secs_f64(seconds));
        let (from, to) = (show(*seconds.start()), show(*seconds.end()));
        format!("must be a time such as \"30s\" or \"1m 30s\", from {from} to {to}")
    })
}

/// Words: an array, or what a shell splits a variable into.
pub fn list(value: &Value) -> Result<Vec<String>, Refused> {
    match value {
        Value::List(words) => Ok(words.clone()),
        // Unquoted in dockerd-rootless.sh: split at white space, no quotes.
        Value::Variable(text) => Ok(text.split_ascii_whitespace().map(str::to_owned).collect()),
        _ => Err("must be an array of strings, such as [\"--debug\"]".into()),
    }
}

/// Text; empty text is none.
pub fn text(value: &Value) -> Result<Option<String>, Refused> {
    match value {
        Value::Text(text) | Value::Variable(text) if text.contains('\0') => {
            Err("must not have a NUL in it".into())
        }
        Value::Text(text) | Value::Variable(text) => {
            Ok(Some(text.clone()).filter(|text| !text.is_empty()))
        }
        _ => Err("must be a string".into()),
    }
}

/// An absolute path; empty text is none.
pub fn path(value: &Value) -> Result<Option<PathBuf>, Refused> {
    let path = text(value)?.map(PathBuf::from);
    match path {
        Some(path) if !path.is_absolute() => Err("must be an absolute path".into()),
        path => Ok(path),
    }
}

/// A program: an absolute path, or a name to look for; empty text is none.
pub fn program(value: &Value) -> Result<Option<PathBuf>, Refused> {
    match text(value)?.map(PathBuf::from) {
        Some(path) if path.is_absolute() || path.components().count() == 1 => Ok(Some(path)),
        None => Ok(None),
        Some(_) => Err("must be an absolute path, or a name without a slash".into()),
    }
}

/// How a value is written in TOML.
pub trait Show {
    /// The TOML text.
    fn show(&self) -> String;
}

/// A string as TOML writes it.
pub fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn show_time(time: Duration) -> String {
    SignedDuration::try_from(time).map_or_else(|_| "?".into(), |time| format!("{time:#}"))
}

impl Show for bool {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for u32 {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for Option<u32> {
    fn show(&self) -> String {
        self.map_or_else(|| quote("auto"), |number| number.to_string())
    }
}

impl Show for Duration {
    fn show(&self) -> String {
        quote(&show_time(*self))
    }
}

impl Show for Vec<String> {
    fn show(&self) -> String {
        toml::Value::from(self.clone()).to_string()
    }
}

impl Show for Option<String> {
    fn show(&self) -> String {
        quote(self.as_deref().unwrap_or_default())
    }
}

impl Show for Option<PathBuf> {
    fn show(&self) -> String {
        quote(&self.as_deref().unwrap_or(Path::new("")).to_string_lossy())
    }
}

macro_rules! show_words {
    ($($name:ident),+) => {
        $(impl Show for $name {
            fn show(&self) -> String {
                quote(self.as_str())
            }
        })+
    };
}
show_words!(Start, NetworkDriver, OnLoss, PortDriver, Switch, AskPorts, LogLevel);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("1m 30s", Some(90_000)),
            ("200ms", Some(200)),
            ("1h", Some(3_600_000)),
            ("1h 1s", None),
            ("-5s", None),
            ("30", None),
            ("", None),
            ("soon", None),
        ] {
            let time = time(&Value::Text(text.into()), 0.0..=3600.0).ok();
            assert_eq!(time, expected.map(Duration::from_millis), "{text:?}");
        }
        assert!(time(&Value::Integer(30), 0.0..=3600.0).is_err());
        for shown in ["30s", "1m 30s", "200ms", "0s"] {
            let time = time(&Value::Text(shown.into()), 0.0..=3600.0).expect("a time");
            assert_eq!(time.show(), format!("{shown:?}"));
        }
    }

    #[test]
    fn variables_have_no_types() {
        let variable = |text: &str| Value::Variable(text.into());
        assert_eq!(truth(&variable("1")), Ok(true));
        assert_eq!(truth(&variable("false")), Ok(false));
        assert!(truth(&variable("yes")).is_err());
        assert!(truth(&Value::Text("true".into())).is_err(), "a file has types");
        assert_eq!(not_false(&variable("0")), Ok(true), "as dockerd-rootless.sh has it");
        assert_eq!(not_false(&variable("false")), Ok(false));
        assert_eq!(number(&variable("1500"), 1..=65521), Ok(1500));
        assert_eq!(word(&variable("1"), Switch::WORDS, Switch::from_word), Ok(Switch::On));
        let flags = list(&variable(" -p  0.0.0.0:2376:2376/tcp\n--debug "));
        assert_eq!(flags.expect("flags"), ["-p", "0.0.0.0:2376:2376/tcp", "--debug"]);
    }

    #[test]
    fn numbers_keep_to_their_range() {
        for (value, fine) in [(0, false), (1, true), (10, true), (11, false), (-1, false)] {
            assert_eq!(number(&Value::Integer(value), 1..=10).is_ok(), fine, "{value}");
        }
        assert_eq!(number_or_auto(&Value::Text("auto".into()), 1..=10), Ok(None));
    }

    #[test]
    fn programs_are_absolute_or_names() {
        for (path, fine) in [("/usr/bin/x", true), ("x", true), ("./x", false), ("a/b", false)] {
            assert_eq!(program(&Value::Text(path.into())).is_ok(), fine, "{path}");
        }
        assert_eq!(program(&Value::Text(String::new())), Ok(None));
    }

    #[test]
    fn strings_are_quoted_as_toml_has_it() {
        assert_eq!(quote("a"), r#""a""#);
        let odd = "a\"b\\c\n\u{1b}";
        let back: toml::Table = format!("k = {}", quote(odd)).parse().expect("TOML");
        assert_eq!(back["k"].as_str(), Some(odd));
    }
}
