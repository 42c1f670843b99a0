//! Who a container runs as: the request's user, or the image's `USER`, resolved against the
//! `/etc/passwd` and `/etc/group` of the container's own root file system.
//!
//! Those two files come from the image, so they are hostile input: they are opened without
//! leaving the root file system, must be regular files, and are read up to a bound. A number is
//! always taken as a number (never looked up as a name) and a number out of range is an error,
//! never some other user.

mod database;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::database::{Database, GroupEntry, UserEntry};
use crate::container::spec::{GroupsPolicy, Security, User};
use crate::error::{Classify, Kind};

#[cfg(test)]
mod tests;

/// Largest id that is accepted. Above it, programs that keep an id in an `int` see a negative
/// number, and -1 means "leave unchanged" to setuid(2) and its relatives.
const MAX_ID: u32 = i32::MAX as u32;

/// A process's user and groups, by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, sorted, without duplicates, the primary group among them: what OCI
    /// `additionalGids` and CRI `ContainerUser.supplemental_groups` want. A process that lacks
    /// its primary group there could shed it and pass a file's "group may not" bits.
    pub additional_gids: Vec<u32>,
    /// Home directory from the user's entry, if it has a usable one.
    pub home: Option<String>,
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The image's `USER` or the request's user name has none of the known forms.
    #[error("user {0:?} is neither a number in range nor a valid name")]
    Malformed(String),
    /// A number is too large.
    #[error("{what} {id} is larger than {MAX_ID}")]
    OutOfRange {
        /// The request's field.
        what: &'static str,
        /// The number.
        id: u32,
    },
    /// `run_as_group` came without a user.
    #[error("run_as_group needs run_as_user or run_as_username")]
    GroupWithoutUser,
    /// The name is not in the image's `/etc/passwd`.
    #[error("user {0:?} is not in the image's /etc/passwd")]
    NoSuchUser(String),
    /// The name is not in the image's `/etc/group`.
    #[error("group {0:?} is not in the image's /etc/group")]
    NoSuchGroup(String),
    /// A database is not a regular file.
    #[error("the image's {path} is not a regular file")]
    NotAFile {
        /// Path in the image.
        path: &'static str,
    },
    /// A database is larger than the bound.
    #[error("the image's {path} is larger than {limit} bytes")]
    TooLarge {
        /// Path in the image.
        path: &'static str,
        /// The bound in bytes.
        limit: u64,
    },
    /// A line of a database is longer than the bound.
    #[error("line {line} of the image's {path} is longer than {limit} bytes")]
    LineTooLong {
        /// Path in the image.
        path: &'static str,
        /// Counted from 1.
        line: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// A database's path has too many symbolic links or goes through a magic one.
    #[error("the image's {path} has a loop of symbolic links")]
    Loop {
        /// Path in the image.
        path: &'static str,
    },
    /// The root file system could not be opened.
    #[error("open root file system {path}")]
    Rootfs {
        /// The directory on the host.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A database could not be read.
    #[error("read the image's {path}")]
    Read {
        /// Path in the image.
        path: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Classify for UserError {
    fn kind(&self) -> Kind {
        match self {
            UserError::Rootfs { .. } | UserError::Read { .. } => Kind::Internal,
            UserError::Malformed(_)
            | UserError::OutOfRange { .. }
            | UserError::GroupWithoutUser
            | UserError::NoSuchUser(_)
            | UserError::NoSuchGroup(_)
            | UserError::NotAFile { .. }
            | UserError::TooLarge { .. }
            | UserError::LineTooLong { .. }
            | UserError::Loop { .. } => Kind::Invalid,
        }
    }
}

/// A user or group before it was looked up.
#[derive(Debug, PartialEq, Eq)]
enum Principal {
    Id(u32),
    Name(String),
}

/// Resolves the request's user, or else the image's `USER`, inside `rootfs`.
///
/// A user id without an entry is fine and has group 0, as with other runtimes; a name without an
/// entry is an error. Blocks on file reads.
///
/// # Errors
/// [`Kind::Invalid`] for a malformed or unknown user and for databases that are not ordinary
/// small files, [`Kind::Internal`] when the host cannot read them.
pub fn resolve(
    rootfs: &Path,
    security: &Security,
    image_user: &str,
) -> Result<Identity, UserError> {
    let (user, group) = requested(security, image_user)?;
    let database = Database::read(rootfs)?;

    let entry = database.user(|entry| match &user {
        Principal::Id(uid) => entry.uid == *uid,
        Principal::Name(name) => entry.name == name.as_bytes(),
    });
    let uid = match (&user, &entry) {
        (Principal::Id(uid), _) => *uid,
        (Principal::Name(_), Some(entry)) => entry.uid,
        (Principal::Name(name), None) => return Err(UserError::NoSuchUser(name.clone())),
    };
    let gid = match group {
        Some(group) => group_id(&database, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    Ok(Identity {
        uid,
        gid,
        additional_gids: additional_gids(&database, security, gid, entry.as_ref())?,
        home: entry.as_ref().and_then(UserEntry::usable_home),
    })
}

/// The user and group asked for. The request's user replaces the whole of the image's `USER`.
fn requested(
    security: &Security,
    image_user: &str,
) -> Result<(Principal, Option<Principal>), UserError> {
    let group = security.run_as_group.map(|id| in_range("run_as_group", id)).transpose()?;
    match &security.user {
        Some(User::Id(id)) => {
            Ok((Principal::Id(in_range("run_as_user", *id)?), group.map(Principal::Id)))
        }
        // The kubelet sends a name only when it is not a number, so that its check for root
        // cannot be passed by `run_as_username: "0"`.
        Some(User::Name(name)) => match principal(name) {
            Some(Principal::Name(name)) => Ok((Principal::Name(name), group.map(Principal::Id))),
            Some(Principal::Id(_)) | None => Err(UserError::Malformed(name.clone())),
        },
        None if group.is_some() => Err(UserError::GroupWithoutUser),
        None => image_principals(image_user),
    }
}

/// Parses `USER` of an image configuration: empty, `user` or `user:group`.
fn image_principals(text: &str) -> Result<(Principal, Option<Principal>), UserError> {
    if text.is_empty() {
        return Ok((Principal::Id(0), None));
    }
    let malformed = || UserError::Malformed(text.to_owned());
    match text.split_once(':') {
        None => Ok((principal(text).ok_or_else(malformed)?, None)),
        Some((user, group)) => Ok((
            principal(user).ok_or_else(malformed)?,
            Some(principal(group).ok_or_else(malformed)?),
        )),
    }
}

/// A plain decimal number in range, or a name. Anything else that some program could take for a
/// number (`0x0`, `+0`, `00`, ` 0`, `4294967296`) is refused: it must neither become user 0 nor
/// be looked up as a name, which the image could define to be user 0.
fn principal(text: &str) -> Option<Principal> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let leading_zero = text.len() > 1 && text.starts_with('0');
        let id = text.parse::<u32>().ok().filter(|id| *id <= MAX_ID && !leading_zero)?;
        return Some(Principal::Id(id));
    }
    is_name(text).then(|| Principal::Name(text.to_owned()))
}

/// Whether a text can be the name of a user or group and not be mistaken for a number.
fn is_name(text: &str) -> bool {
    /// As `LOGIN_NAME_MAX` of Linux.
    const MAX_NAME: usize = 256;
    let Some(first) = text.chars().next() else { return false };
    let digits_first = first.is_ascii_digit();
    let based = digits_first
        && text.get(1..2).is_some_and(|base| "xXoObB".contains(base))
        && text[2..].bytes().all(|byte| byte.is_ascii_hexdigit());
    let scientific = digits_first && text.bytes().all(|byte| b"0123456789_.eE+-".contains(&byte));
    text.len() <= MAX_NAME
        && !matches!(first, '+' | '-')
        && !based
        && !scientific
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/'))
}

fn in_range(what: &'static str, id: u32) -> Result<u32, UserError> {
    if id > MAX_ID { Err(UserError::OutOfRange { what, id }) } else { Ok(id) }
}

fn group_id(database: &Database, group: Principal) -> Result<u32, UserError> {
    match group {
        Principal::Id(gid) => Ok(gid),
        Principal::Name(name) => database
            .groups()
            .find(|entry| entry.name == name.as_bytes())
            .map(|entry| entry.gid)
            .ok_or(UserError::NoSuchGroup(name)),
    }
}

/// The primary group, the request's groups and, unless the policy is strict, those of the image's
/// `/etc/group` that list the user (KEP-3619).
fn additional_gids(
    database: &Database,
    security: &Security,
    gid: u32,
    entry: Option<&UserEntry<'_>>,
) -> Result<Vec<u32>, UserError> {
    let mut gids = vec![gid];
    for &id in &security.supplemental_groups {
        gids.push(in_range("supplemental_groups", id)?);
    }
    if security.supplemental_groups_policy == GroupsPolicy::Merge
        && let Some(entry) = entry
    {
        let listed = |group: &GroupEntry<'_>| group.members().any(|member| member == entry.name);
        gids.extend(database.groups().filter(listed).map(|group| group.gid));
    }
    gids.sort_unstable();
    gids.dedup();
    Ok(gids)
}
