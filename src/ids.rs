//! Identities of pods, containers, images and our directories: parse, print, make. Nothing else.
//!
//! An id is made of 32 random bytes, or for an image of its configuration's sha256, and prints as
//! 64 lower-case hex digits. Text from a request is never used as a path or an argument: it is
//! looked up in a map ([`IdQuery`]), and what is found prints itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an id, or not even a question for one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// The text is not 64 lower-case hex digits.
    #[error("id {0:?} is not 64 lower-case hex digits")]
    NotAnId(String),
    /// The text could never name anything: empty, too long, or with a character that no id has.
    #[error(
        "id {0:?} is not made of 1 to 128 of the characters A-Z a-z 0-9 . _ -, or starts with . or -"
    )]
    Malformed(String),
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// An id from 32 given bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The first 13 digits, as people and `crictl` write it.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(13);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                decode(text).map(Self).ok_or_else(|| IdError::NotAnId(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<&$name> for IdQuery {
            fn from(id: &$name) -> Self {
                IdQuery::whole(id.to_string())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

id! {
    /// A pod sandbox.
    PodId
}
id! {
    /// A container.
    ContainerId
}
id! {
    /// An image: the sha256 of its configuration. Prints without the `sha256:` in front.
    ImageId
}

id! {
    /// What `root` and `state` of one crisol have in common.
    Identity
}

impl Identity {
    /// A new identity from the kernel's random numbers.
    pub fn random() -> Self {
        Self(random())
    }
}

impl PodId {
    /// A new id from the kernel's random numbers.
    pub fn random() -> Self {
        Self(random())
    }
}

impl ContainerId {
    /// A new id from the kernel's random numbers.
    pub fn random() -> Self {
        Self(random())
    }
}

/// Text of a request that asks for an object: an id or the beginning of one.
///
/// Well-formed text that names nothing is "absent", not "invalid": clients remove objects by ids
/// of other runtimes and expect success (CRI `RemovePodSandbox`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdQuery(String);

impl IdQuery {
    /// Longest text accepted.
    const MAX: usize = 128;

    /// Checks the characters of `text`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let first_ok = text.bytes().next().is_some_and(|b| b != b'.' && b != b'-');
        let all_ok = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if first_ok && all_ok && text.len() <= Self::MAX {
            Ok(Self(text.to_owned()))
        } else {
            let shown: String = text.chars().take(Self::MAX).collect();
            Err(IdError::Malformed(shown))
        }
    }

    /// The question for an id that is known whole.
    fn whole(id: String) -> Self {
        Self(id)
    }

    /// The text as it was asked.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 32 bytes of the kernel's random numbers.
pub(crate) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel has no random numbers: {error}"),
        }
    }
    bytes
}

fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_and_parsing_are_inverse() {
        let id = PodId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, PodId::random());
    }

    #[test]
    fn upper_case_short_and_long_texts_are_no_ids() {
        for text in ["", "AB", &"A".repeat(64), &"a".repeat(63), &"a".repeat(65), &"g".repeat(64)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_query_may_be_any_name_but_no_path_and_no_option() {
        for good in ["a", "abc123", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "A_b.c"] {
            assert!(IdQuery::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-f", "..", "a/b", "a b", "a\n", "ä", &"a".repeat(129)] {
            assert!(IdQuery::parse(bad).is_err(), "{bad}");
        }
    }
}
