//! Where the links of a user are pinned, so that they outlive us.

use std::{
    fs::{self, DirBuilder},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::process::geteuid;

use super::{Error, Family, bpf_failed, detach_link, failed, sys};

/// A user's directory in ours.
pub(super) struct Pins(PathBuf);

impl Pins {
    /// The directory, if it is there.
    pub(super) fn find(bpffs: &Path, uid: u32) -> Result<Option<Self>, Error> {
        let directory = bpffs.join(uid.to_string());
        Ok((is_ours(bpffs)? && is_ours(&directory)?).then_some(Self(directory)))
    }

    /// The directory, made if need be, without what one of us left there who was killed in the midst.
    pub(super) fn make(bpffs: &Path, uid: u32) -> Result<Self, Error> {
        let pins = Self(bpffs.join(uid.to_string()));
        make_directory(bpffs)?;
        make_directory(&pins.0)?;
        pins.remove_unfinished()?;
        Ok(pins)
    }

    /// The links, in the order of [`Family::ALL`].
    pub(super) fn open_all(&self) -> Result<[Option<OwnedFd>; 2], Error> {
        let [inet4, inet6] = Family::ALL.map(|family| open(&self.place(family)));
        Ok([inet4?, inet6?])
    }

    /// Whether one of us was killed in the midst.
    pub(super) fn is_unfinished(&self) -> bool {
        Family::ALL.iter().any(|family| self.unfinished(*family).symlink_metadata().is_ok())
    }

    /// Put new links to where the old ones are. If this fails, the old ones are there.
    pub(super) fn replace(
        &self,
        new: &[OwnedFd; 2],
        old: &[Option<OwnedFd>; 2],
    ) -> Result<(), Error> {
        let mut replaced = vec![];
        let result = self.pin_unfinished(new).and_then(|()| {
            Family::ALL.into_iter().zip(old).try_for_each(|(family, link)| {
                let (from, to) = (self.unfinished(family), self.place(family));
                fs::rename(&from, &to).map_err(failed(format!("replace {}", to.display())))?;
                replaced.push((to, link));
                Ok(())
            })
        });
        if result.is_err() {
            // All are attached whatever comes of this, since they are open; so there is no gap.
            for (place, link) in replaced {
                let _ = fs::remove_file(&place);
                let _ = link.as_ref().map(|link| sys::pin(link.as_fd(), &place));
            }
            for family in Family::ALL {
                let _ = fs::remove_file(self.unfinished(family));
            }
        }
        result
    }

    /// End all links, and remove the directory.
    pub(super) fn remove(&self) -> Result<(), Error> {
        self.remove_unfinished()?;
        Family::ALL.into_iter().try_for_each(|family| remove_pin(&self.place(family)))?;
        fs::remove_dir(&self.0).map_err(failed(format!("remove {}", self.0.display())))
    }

    fn remove_unfinished(&self) -> Result<(), Error> {
        Family::ALL.into_iter().try_for_each(|family| remove_pin(&self.unfinished(family)))
    }

    fn pin_unfinished(&self, new: &[OwnedFd; 2]) -> Result<(), Error> {
        Family::ALL.into_iter().zip(new).try_for_each(|(family, link)| {
            let path = self.unfinished(family);
            sys::pin(link.as_fd(), &path)
                .map_err(bpf_failed(format!("pin a program as {}", path.display())))
        })
    }

    fn place(&self, family: Family) -> PathBuf {
        self.0.join(match family {
            Family::Inet4 => "inet4",
            Family::Inet6 => "inet6",
        })
    }

    /// Where a new link is until it replaces the old one. (The kernel keeps names with dots for
    /// itself: `bpf_lookup` in kernel/bpf/inode.c.)
    fn unfinished(&self, family: Family) -> PathBuf {
        self.0.join(match family {
            Family::Inet4 => "new-inet4",
            Family::Inet6 => "new-inet6",
        })
    }
}

fn open(path: &Path) -> Result<Option<OwnedFd>, Error> {
    match sys::get(path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(bpf_failed(format!("open the link {}", path.display()))(error)),
    }
}

/// End what a link does, and remove its name.
fn remove_pin(path: &Path) -> Result<(), Error> {
    let Some(link) = open(path)? else { return Ok(()) };
    detach_link(&link)?;
    fs::remove_file(path).map_err(failed(format!("remove {}", path.display())))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failed(format!("make the directory {}", path.display()))(error))
        }
        _ => is_ours(path).map(drop),
    }
}

/// Whether a directory is there. One in which others may write is an error: in a bpf file system that
/// was mounted without `mode=`, everybody may make ours first, and then give us links of others.
fn is_ours(path: &Path) -> Result<bool, Error> {
    let cannot_use = |error| failed(format!("use {}", path.display()))(error);
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot_use(error)),
        Ok(found) => {
            let ours = found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
            if found.is_dir() && ours {
                return Ok(true);
            }
            let error =
                "it is not a directory in which only root may write; look at it and remove it";
            Err(cannot_use(io::Error::other(error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn directories_of_others_are_not_used() {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name| temporary.path().join(name);
        make_directory(&path("ours")).unwrap();
        fs::create_dir(path("open")).unwrap();
        fs::set_permissions(path("open"), Permissions::from_mode(0o777)).unwrap();
        symlink(path("ours"), path("link")).unwrap();
        fs::write(path("file"), "").unwrap();
        let table = [
            ("ours", Some(true)),
            ("none", Some(false)),
            ("open", None),
            ("link", None),
            ("file", None),
        ];
        for (name, wanted) in table {
            assert_eq!(is_ours(&path(name)).ok(), wanted, "{name}");
        }
        assert_eq!(fs::metadata(path("ours")).unwrap().mode() & 0o777, 0o700);
    }
}
