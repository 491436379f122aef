//! Configuration files: where they are, and what keys they have on which lines.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rootlessd_api::{Error, ErrorKind};
use toml::de::{DeTable, DeValue};

use super::{keys, mistake, value::Value};
use crate::dirs::Dirs;

/// More than any configuration has; what is larger is something else.
const LARGEST: u64 = 1 << 20;

/// A key of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The dotted name.
    pub name: String,
    /// The value.
    pub value: Value,
    /// The line, from 1.
    pub line: usize,
}

/// The files that are looked for, the weightiest last.
pub fn paths(dirs: &Dirs) -> Result<Vec<PathBuf>, Error> {
    let mut paths = vec![dirs.on_system("/etc/rootlessd/config.toml")];
    paths.extend(files_with(&dirs.on_system("/etc/rootlessd/config.d"), "toml")?);
    paths.push(dirs.config_home.join("rootlessd/config.toml"));
    Ok(paths)
}

/// The files in a directory whose names end in `.extension`, sorted; none if there is no directory.
pub fn files_with(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(error) if is_absent(&error) => Vec::new(),
        Err(error) => return Err(unreadable(directory, &error)),
    };
    // A name that is only an extension, such as `.toml`, has none for Path.
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

/// The text of a file, if it is there.
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    match read_small(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads a regular file of moderate size: a FIFO or a device would hold the program up.
pub fn read_small(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::new(ErrorKind::Config, format!("{} cannot be read: {error}", path.display()))
}

/// The keys of a file, in the order of their lines. `path` is for messages.
pub fn entries(path: &str, text: &str) -> Result<Vec<Entry>, Error> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        mistake(format!("{path}:{line}: {}", error.message()), path)
    })?;
    let mut entries = Vec::new();
    flatten(text, "", table.get_ref(), &mut entries);
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, entries: &mut Vec<Entry>) {
    for (key, value) in table {
        let name = match prefix {
            "" => key.get_ref().to_string(),
            prefix => format!("{prefix}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) if keys::is_table(&name) => {
                flatten(text, &name, inner, entries);
            }
            value => {
                let line = line_of(text, key.span().start);
                entries.push(Entry { name, value: Value::from(value), line });
            }
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_lines() {
        let text = "# top\n[engine]\nstart = \"boot\"\nrestart = { limit = 3, delay = \"1s\" }\n\n\
                    [engine.network]\nmtu = 1500\n[environment]\nA = \"b\"\n";
        let found: Vec<_> = entries("f", text)
            .expect("TOML")
            .into_iter()
            .map(|entry| (entry.name, entry.line))
            .collect();
        let expected = [
            ("engine.start", 3),
            ("engine.restart.delay", 4),
            ("engine.restart.limit", 4),
            ("engine.network.mtu", 7),
            ("environment.A", 9),
        ];
        assert_eq!(found, expected.map(|(name, line)| (name.to_owned(), line)));
    }

    #[test]
    fn an_unknown_table_is_one_entry() {
        let found = entries("f", "\n[engin]\nstart = \"boot\"\n").expect("TOML");
        let value = Value::Other("table");
        assert_eq!(found, [Entry { name: "engin".into(), value, line: 2 }]);
    }

    #[test]
    fn broken_toml_names_its_line() {
        for (text, line) in [("a = 1\nb = \n", 2), ("a = 1\na = 2\n", 2), ("[x\n", 1)] {
            let error = entries("f", text).expect_err("it is broken");
            assert!(error.message.starts_with(&format!("f:{line}: ")), "{}", error.message);
        }
    }
}
