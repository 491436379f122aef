//! The user that something is done for: always the one who calls, never one that an argument names.

use rootlessd_api::{Error, ErrorKind};

/// A person's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its uid.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// Its name in the user database.
    pub name: String,
}

impl User {
    /// The account of a uid, if it is one that anything may be granted to.
    pub fn of(uid: u32) -> Result<Self, Error> {
        refuse_special(uid)?;
        let account = nix::unistd::User::from_uid(uid.into())
            .map_err(|error| refused(format!("user {uid} cannot be looked up: {error}")))?;
        let account = account
            .ok_or_else(|| refused(format!("there is no user {uid} in the user database")))?;
        Self::checked(account)
    }

    /// The same by name, for root's own command line.
    pub fn named(name: &str) -> Result<Self, Error> {
        let account = nix::unistd::User::from_name(name)
            .map_err(|error| refused(format!("user {name:?} cannot be looked up: {error}")))?;
        let account = account
            .ok_or_else(|| refused(format!("there is no user {name:?} in the user database")))?;
        refuse_special(account.uid.as_raw())?;
        Self::checked(account)
    }

    fn checked(account: nix::unistd::User) -> Result<Self, Error> {
        let name = account.name;
        // It goes into files and messages.
        if name.is_empty() || name.contains(|letter: char| letter == ':' || letter.is_control()) {
            return Err(refused(format!("the user name {name:?} is none")));
        }
        Ok(Self { uid: account.uid.as_raw(), gid: account.gid.as_raw(), name })
    }
}

/// Root needs no grant; nobody, and what the kernel means by "unchanged", are no persons; and
/// programs that hold a uid in an int take the upper half for something else (CVE-2018-19788).
fn refuse_special(uid: u32) -> Result<(), Error> {
    match uid {
        0 => Err(refused("root needs no grant; call this as the user whom it is for".into())),
        65534 => Err(refused("nothing is granted to nobody (uid 65534)".into())),
        uid if uid > i32::MAX as u32 => Err(refused(format!("the uid {uid} is no person's"))),
        _ => Ok(()),
    }
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::AccessDenied, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_nobody() {
        for uid in [0, 65534, u32::MAX, u32::MAX - 1, 1 << 31, 3_999_999] {
            assert_eq!(User::of(uid).unwrap_err().kind, ErrorKind::AccessDenied, "{uid}");
        }
        for name in ["root", "nobody", "no such user", "", "a:b"] {
            assert_eq!(User::named(name).unwrap_err().kind, ErrorKind::AccessDenied, "{name}");
        }
        // Every Debian has it.
        assert_eq!(User::of(1).unwrap(), User { uid: 1, gid: 1, name: "daemon".into() });
    }
}
